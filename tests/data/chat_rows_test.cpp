// Rows of files that hold conversations, and those that do not fit.
#include <gmock/gmock.h>

#include "data/conversation.h"
#include "data/json_sample.h"
#include "data/line_reader.h"
#include "data/template/operations.h"
#include "data/tokenize.h"
#include "tests/data/chat_test_util.h"
#include "tests/data/corpus_test_util.h"

namespace thimble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::message_of;
using testing::TempDir;

TEST(ChatRows, AreToldApartAndRead) {
  const auto shown = [](const std::string& line, SampleFormat expected) {
    const FieldNames fields;
    jinja::Budget budget(1000, 1000);
    EXPECT_EQ(format_name(detect_json_format(line, fields, "f:1")), format_name(expected)) << line;
    const Conversation c =
        read_conversation(parse_json_object(line, "f:1"), expected, fields, "f:1");
    std::string text;
    for (std::size_t i = 0; i < c.messages.size(); ++i)
      text += (c.held_out[i] ? "-" : "") +
              jinja::to_json(c.messages[i], {.item_separator = ",", .key_separator = ":"}, budget);
    return text + (c.tools.is_none() ? "" : jinja::to_json(c.tools, {}, budget));
  };
  EXPECT_EQ(
      shown(
          R"({"messages":[{"role":"user","content":"a"},{"content":null,"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{\"x\": 1}"}}],"train":false}]})",
          SampleFormat::kChat),
      R"({"role":"user","content":"a"}-{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":{"x":1}}}]})");
  EXPECT_EQ(
      shown(
          R"({"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}],"tools":"[{\"name\": \"t\"}]"})",
          SampleFormat::kChat),
      R"({"role":"user","content":"ab"}[{"name": "t"}])");
  EXPECT_EQ(
      shown(
          R"({"prompt":[{"role":"user","content":"a"}],"completion":[{"role":"assistant","content":"b"}]})",
          SampleFormat::kChat),
      R"(-{"role":"user","content":"a"}{"role":"assistant","content":"b"})");
  EXPECT_EQ(
      shown(
          R"({"system":"s","conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"},{"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{}}"},{"from":"observation","value":"r"}]})",
          SampleFormat::kShareGpt),
      R"({"role":"system","content":"s"}{"role":"user","content":"a"}{"role":"assistant","content":"b"}{"role":"assistant","content":"","tool_calls":[{"type":"function","function":{"name":"f","arguments":{}}}]}{"role":"tool","content":"r"})");
  EXPECT_EQ(
      shown(R"({"messages":[{"role":"assistant","content":"a","weight":0}]})", SampleFormat::kChat),
      R"(-{"role":"assistant","content":"a","weight":0})");
  EXPECT_EQ(shown(R"({"conversations":[{"role":"user","content":"a"}]})", SampleFormat::kChat),
            R"({"role":"user","content":"a"})");
  EXPECT_EQ(
      shown(R"({"instruction":"i","input":"x","output":"o","history":[["q","r"]],"system":""})",
            SampleFormat::kAlpaca),
      R"({"role":"user","content":"q"}{"role":"assistant","content":"r"}{"role":"user","content":"i\nx"}{"role":"assistant","content":"o"})");
  EXPECT_EQ(shown(R"({"instruction":"i","input":"","output":"o"})", SampleFormat::kAlpaca),
            R"({"role":"user","content":"i"}{"role":"assistant","content":"o"})");
}

TEST(ChatRows, WhatDoesNotFitIsNamedByFileAndLine) {
  TempDir dir;
  const auto error = [&](const std::string& lines, SampleFormat format = SampleFormat::kAuto) {
    SourceSpec source;
    source.paths = {dir.write("c.jsonl", lines)};
    source.format = format;
    source.chat.chat_template = "chatml";
    const std::string text = message_of<UserError>(
        [&] { tokenize_files(source, testing::FakeTokenizer(), dir.file("c.tokens"), {}); });
    const std::string prefix = dir.file("c.jsonl");
    return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
  };
  const std::string good =
      R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]})"
      "\n";
  const std::string roles =
      "system, developer, user, assistant, tool, ipython, tool_response, context, "
      "assistant_tool_call";
  EXPECT_EQ(error(good + good +
                  R"({"messages":[{"role":"user","content":"a"},{"role":"gpt","content":"b"}]})"),
            ":3: messages[1].role is 'gpt'; allowed: " + roles +
                "; rename it, or set format = \"sharegpt\", which reads 'human' and 'gpt'");
  EXPECT_EQ(error(good + R"({"messages":[{"role":"boss","content":"a"}]})"),
            ":2: messages[0].role is 'boss'; allowed: " + roles);
  EXPECT_EQ(error(good + R"({"messages":[]})"), ":2: a conversation without messages");
  EXPECT_EQ(error(good + R"({"messages":[{"role":"user"}]})"),
            ":2: messages[0] has neither 'content' nor 'tool_calls'; it has: role");
  EXPECT_EQ(error(good + R"({"messages":[{"role":"user","content":3}]})"),
            ":2: messages[0].content is number, a string is needed");
  EXPECT_EQ(
      error(good + R"({"messages":[{"role":"user","content":[{"type":"image","url":"x"}]}]})"),
      ":2: messages[0].content[0] is not text; images and sound are not trained on");
  EXPECT_EQ(error(good + R"({"messages":["a"]})"),
            ":2: messages[0] is string, an object is needed");
  EXPECT_EQ(error(good + R"({"messages":"a"})", SampleFormat::kChat),
            ":2: field 'messages' is string, a list of messages is needed");
  EXPECT_EQ(error(good + R"({"chat":1})", SampleFormat::kChat),
            ":2: no field 'messages'; the line has: chat; map it in fields");
  EXPECT_EQ(error(good + R"({"messages":[{"content":"a","who":"x"}]})"),
            ":2: messages[0] has no text 'role'; it has: content, who; map it in fields");
  EXPECT_EQ(error(R"({"conversations":[{"from":"robot","value":"x"}]})"),
            ":1: conversations[0].from is 'robot'; allowed: system, human, user, gpt, chatgpt, "
            "bing, bard, assistant, model, tool, observation, "
            "function, function_call");
  EXPECT_EQ(error(R"({"instruction":"a","input":7,"output":"b"})"),
            ":1: field 'input' is number, a string is needed");
  EXPECT_EQ(error(R"({"messages":[{"role":"user","content":"a","train":0}]})"),
            ":1: messages[0].train is number, true or false is needed");
  EXPECT_EQ(error(R"({"instruction":"a","output":7})"),
            ":1: field 'output' is number, a string is needed");
  EXPECT_EQ(error(R"({"text":"a","messages":[]})"),
            ":1: the line has both 'text' and a conversation; set format to text or chat");
  EXPECT_EQ(
      error(good + R"({"messages":[{"role":"user","content":"a"}], "x": 1e999})").substr(0, 4),
      ":2: ");
  // A parser copes with any depth; copies and ends of what it made do not.
  const std::string deep = std::string(300'000, '[') + std::string(300'000, ']');
  EXPECT_EQ(error(R"({"messages":[{"role":"user","content":"a","x":)" + deep + "}]}"),
            ":1: JSON nested deeper than 200 levels");
  EXPECT_EQ(error(R"({"messages":[{"role":"user","content":"a"}],"tools":")" + deep + "\"}"),
            ":1: field 'tools' is string, a list is needed");
  EXPECT_THAT(error(R"({"messages":[{"role":"user","content":"a"}],"tools":{}})"),
              HasSubstr(":1: field 'tools' is object, a list is needed"));
}

TEST(ChatRows, ATemplateThatRefusesNamesFileLineAndTemplateLine) {
  TempDir dir;
  SourceSpec source;
  source.paths = {
      dir.write("c.jsonl", "\n{\"messages\":[{\"role\":\"tool\",\"content\":\"a\"}]}\n")};
  source.chat.chat_template =
      dir.write("t.jinja", "{# one #}\n{{ raise_exception('no ' + messages[0].role) }}");
  const auto tokenize = [&] {
    tokenize_files(source, testing::FakeTokenizer(), dir.file("c.tokens"), {});
  };
  EXPECT_EQ(message_of<UserError>(tokenize), dir.file("c.jsonl") + ":2: " + dir.file("t.jinja") +
                                                 ":2: the chat template refuses it: no tool");
  source.skip_bad_lines = true;
  EXPECT_THAT(message_of<UserError>(tokenize), HasSubstr("holds no document with text"));
  source.chat.chat_template = "tokenizer";
  EXPECT_EQ(message_of<UserError>(tokenize),
            "the tokenizer 'fake' has no chat template, which conversations need; set "
            "model.chat_template to chatml, llama3, "
            "mistral, alpaca or to a .jinja file (on a command line: --chat-template)");
}

TEST(ChatRows, KeysThatConversationsCannotFollowAreRefused) {
  TempDir dir;
  SourceSpec source;
  source.paths = {dir.write("c.jsonl", R"({"messages":[{"role":"user","content":"a"}]})")};
  source.chat.chat_template = "chatml";
  const auto error = [&] {
    return message_of<UserError>(
        [&] { tokenize_files(source, testing::FakeTokenizer(), dir.file("c.tokens"), {}); });
  };
  source.parse_special = false;
  EXPECT_EQ(error(), dir.file("c.jsonl") +
                         ": special_tokens = \"text\" with conversations; allowed \"parse\": a "
                         "chat template writes the ends of turns as special tokens");
  source.parse_special = true;
  source.chat.roles_to_train = {"assistant", "gpt"};
  EXPECT_EQ(error(), dir.file("c.jsonl") +
                         ": roles_to_train holds 'gpt'; allowed: system, developer, user, "
                         "assistant, tool, ipython, tool_response, context, assistant_tool_call");
}

TEST(ArrayReader, ReadsElementsAndNamesTheirLines) {
  TempDir dir;
  const auto read = [&](const std::string& text) {
    ArrayReader reader(dir.write("a.json", text));
    std::vector<std::string> elements;
    std::string element;
    while (reader.next(element)) elements.push_back(std::to_string(reader.line_number()) + element);
    return elements;
  };
  EXPECT_THAT(read("[]"), ElementsAre());
  EXPECT_THAT(read("\xEF\xBB\xBF [ ]\n"), ElementsAre());
  EXPECT_THAT(read("[{\"a\": \"x],}\\\"{\"},\n\n{\"b\": [1, [2]]}\n , 7,\"s,]\" ]"),
              ElementsAre("1{\"a\": \"x],}\\\"{\"}", "3{\"b\": [1, [2]]}", "47", "4\"s,]\""));
  const auto error = [&](const std::string& text) {
    return message_of<UserError>([&] { read(text); }).substr(dir.file("a.json").size());
  };
  EXPECT_EQ(error("[{} {}]"), ":1: ',' or ']' expected in the JSON array, found '{'");
  EXPECT_EQ(error("[{},\n{\"a\""),
            ":2: the end of an element expected in the JSON array, found the end of the file");
  EXPECT_EQ(error("[{},"), ":1: an element expected in the JSON array, found the end of the file");
  EXPECT_EQ(error("[{}\n"), ":2: ',' or ']' expected in the JSON array, found the end of the file");
  EXPECT_EQ(error("[{}]\n{}"), ":2: the end of the file expected in the JSON array, found '{'");
  EXPECT_EQ(error("[,]"), ":1: an element expected in the JSON array, found ','");
}

}  // namespace
}  // namespace thimble
