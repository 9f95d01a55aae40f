// Conversations from rows of files to tokens and what of them is trained on.
#include <gmock/gmock.h>
#include <zlib.h>
#include <zstd.h>

#include <array>
#include <map>

#include "data/chat_tokens.h"
#include "data/document_reader.h"
#include "data/tokenize.h"
#include "data/training_data.h"
#include "tests/data/chat_test_util.h"
#include "tests/data/corpus_test_util.h"

namespace thimble {
namespace {

using ::testing::HasSubstr;
using testing::message_of;
using testing::TempDir;
using Ids = std::vector<std::int32_t>;

std::string template_file(const std::string& name) {
  return read_bytes("tests/fixtures/chat/templates/" + name);
}

std::string without_generation(std::string source) {
  for (const char* tag :
       {"{%- generation -%}", "{%- endgeneration -%}", "{% generation %}", "{% endgeneration %}"}) {
    for (std::size_t at; (at = source.find(tag)) != source.npos;)
      source.replace(at, std::string(tag).size(), tag[2] == '-' ? "{#--#}" : "{##}");
  }
  return source;
}

/// The tokenizers of the fixtures with the special tokens of chats, as the fixtures list them.
std::map<std::string, std::unique_ptr<Tokenizer>> chat_tokenizers(const Json& tokens) {
  std::map<std::string, std::unique_ptr<Tokenizer>> made;
  for (const Json& entry : tokens) {
    if (!entry.contains("added_tokens")) continue;
    const auto name = entry["tokenizer"].get<std::string>();
    nlohmann::json tokenizer = fixture_case(name);
    tokenizer["added_tokens"] = entry["added_tokens"];
    made[name] = load_json(tokenizer);
  }
  return made;
}

TEST(ChatTokens, IdsAndMasksAreThoseOfTransformers) {
  const Json tokens = chat_fixture("tokens.json");
  const auto tokenizers = chat_tokenizers(tokens);
  const Conversations conversations;
  int compared = 0, masks = 0;
  for (const Json& entry : tokens) {
    if (!entry.contains("ids")) continue;
    const auto row = std::find_if(conversations.rows.begin(), conversations.rows.end(),
                                  [&](const auto& r) { return r.name == entry["conversation"]; });
    const auto file = entry["template"].get<std::string>();
    SCOPED_TRACE(entry["tokenizer"].get<std::string>() + " " + file + " " + row->name);
    const auto parsed = jinja::Template::parse(template_file(file), file);
    const jinja::Rendered rendered = parsed.render(request_for(row->messages, row->tools, false));
    RenderedChat chat{.exact = true};
    for (const jinja::TextRange r : rendered.generation)
      chat.turns.push_back({r.begin, r.end, true});
    const ChatTokens made = tokenize_chat(rendered.text, chat, *tokenizers.at(entry["tokenizer"]));
    EXPECT_EQ(made.ids, entry["ids"].get<Ids>());
    ++compared;
    if (!entry.contains("mask")) continue;
    Ids mask(made.ids.size(), 0);
    for (const TokenRange r : made.trained)
      std::fill(mask.begin() + r.begin, mask.begin() + r.end, 1);
    EXPECT_EQ(mask, entry["mask"].get<Ids>());
    ++masks;
  }
  EXPECT_GE(compared, 140);
  EXPECT_GE(masks, 90);
}

std::string text_of(const Ids& ids, const std::vector<TokenRange>& ranges,
                    const Tokenizer& tokenizer) {
  std::string text;
  for (const TokenRange r : ranges) {
    text += "[";
    for (auto i = r.begin; i < r.end; ++i)
      text += tokenizer.token_text(ids[static_cast<std::size_t>(i)]);
    text += "]";
  }
  return text;
}

Conversation conversation_of(const Json& messages, const Json& tools = Json()) {
  const Json row = {{"messages", messages}, {"tools", tools}};
  return read_conversation(row, SampleFormat::kChat, {}, "row");
}

ChatTemplate template_of(const TempDir& dir, const std::string& source,
                         const Tokenizer& tokenizer) {
  const std::string file = dir.write("chat_template.jinja", source);
  dir.write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}})");
  return *ChatTemplate::load(std::filesystem::path(file).parent_path(), tokenizer, "tokenizer");
}

TEST(ChatTurns, AreFoundWithoutMarksAsWithThem) {
  TempDir dir;
  const Json tokens = chat_fixture("tokens.json");
  const auto tokenizers = chat_tokenizers(tokens);
  const Tokenizer& tokenizer = *tokenizers.at("llama3");
  int compared = 0;
  for (const std::string file : {"turns.jinja", "headers.jinja"}) {
    const std::string source = template_file(file);
    const ChatTemplate marked = template_of(dir, source, tokenizer);
    const ChatTemplate plain = template_of(dir, without_generation(source), tokenizer);
    for (const Conversations::Row& row : Conversations().rows) {
      if (row.messages.empty() || row.name == "long") continue;
      SCOPED_TRACE(file + ": " + row.name);
      const Conversation conversation = conversation_of(row.messages, row.tools);
      const RenderedChat with = marked.render(conversation, {}),
                         without = plain.render(conversation, {});
      ASSERT_EQ(with.text, without.text);
      EXPECT_TRUE(with.exact);
      EXPECT_FALSE(without.exact);
      const ChatTokens a = tokenize_chat(with.text, with, tokenizer),
                       b = tokenize_chat(without.text, without, tokenizer);
      std::string marked_text = text_of(a.ids, a.trained, tokenizer);
      // The blocks of this template hold the line break behind the end of turn too.
      for (std::size_t at; (at = marked_text.find("<|eot_id|>\n]")) != marked_text.npos;)
        marked_text.erase(at + 10, 1);
      EXPECT_EQ(marked_text, text_of(b.ids, b.trained, tokenizer));
      ++compared;
    }
  }
  EXPECT_GT(compared, 20);
}

TEST(ChatTurns, OfTemplatesWithoutHeadersAndMarks) {
  TempDir dir;
  const Json tokens = chat_fixture("tokens.json");
  const auto tokenizers = chat_tokenizers(tokens);
  const Tokenizer& tokenizer = *tokenizers.at("llama3");
  const auto trained = [&](const std::string& source, const Json& messages,
                           const ChatOptions& options) {
    const RenderedChat chat =
        template_of(dir, source, tokenizer).render(conversation_of(messages), options);
    const ChatTokens made = tokenize_chat(chat.text, chat, tokenizer);
    return text_of(made.ids, made.trained, tokenizer);
  };
  const Json messages =
      Json::parse(R"([{"role": "system", "content": "s"}, {"role": "user", "content": "one"},
    {"role": "assistant", "content": " two "}, {"role": "user", "content": "three"},
    {"role": "assistant", "content": "four", "train": true}])");
  const std::string instructions = template_file("instructions.jinja"),
                    model_role = template_file("model_role.jinja");
  EXPECT_EQ(trained(instructions, messages, {}), "[ two</s>][ four</s>]");
  // The end of turn of this template is no token of this tokenizer: it is trained on as text.
  EXPECT_EQ(trained(model_role, messages, {}), "[two<end_of_turn>\n][four<end_of_turn>\n]");
  const std::string turns = without_generation(template_file("turns.jinja"));
  EXPECT_EQ(trained(turns, messages, {}), "[ two <|im_end|>][four<|im_end|>]");
  EXPECT_EQ(trained(turns, messages, {.last_turn_only = true}), "[four<|im_end|>]");
  EXPECT_EQ(trained(turns, messages, {.train_on_eos = TrainOnEos::kLast}),
            "[ two ][four<|im_end|>]");
  EXPECT_EQ(trained(turns, messages, {.train_on_eos = TrainOnEos::kAll}),
            "[<|im_end|>][ two <|im_end|>][<|im_end|>][four<|im_end|>]");
  EXPECT_EQ(trained(turns, messages, {.roles_to_train = {"user"}}),
            "[one<|im_end|>][three<|im_end|>]");
  EXPECT_EQ(trained(turns, messages, {.roles_to_train = {"user", "assistant"}}),
            "[one<|im_end|>][ two <|im_end|>][three<|im_end|>][four<|im_end|>]");
  // Texts that stand in the header of their turns too, and what a template cuts off.
  Json named = messages;
  named[1]["content"] = "user";
  named[3]["content"] = " m\n";
  EXPECT_EQ(trained(turns, named, {.roles_to_train = {"user"}}),
            "[user<|im_end|>][ m\n<|im_end|>]");
  named[1]["content"] = "";
  EXPECT_EQ(trained(turns, named, {.roles_to_train = {"user"}, .last_turn_only = false}),
            "[<|im_end|>][ m\n<|im_end|>]");
  Json held = messages;
  held[2]["train"] = false;
  EXPECT_EQ(trained(turns, held, {}), "[four<|im_end|>]");
  EXPECT_EQ(trained(template_file("turns.jinja"), held, {}), "[four<|im_end|>]");
  EXPECT_EQ(trained(template_file("turns.jinja"), messages, {.last_turn_only = true}),
            "[four<|im_end|>]");
  // The answer's beginning is printed with the user's message; a result's end with the answer.
  const std::string elsewhere =
      "{% for m in messages %}{% if m.role == 'user' %}{{ '<u>' + m.content + '<a>' }}{% elif "
      "m.role == 'tool' %}{{ '<t>' + m.content }}"
      "{% elif m.role == 'assistant' %}{{ ('</t><a>' if loop.index0 > 0 and messages[loop.index0 - "
      "1].role == 'tool' else '') + "
      "m.content + eos_token }}{% endif %}{% endfor %}{% if messages[-1].role == 'tool' and "
      "add_generation_prompt %}{{ '</t><a>' }}{% endif %}";
  const Json with_tool =
      Json::parse(R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "c"},
    {"role": "tool", "content": "r"}, {"role": "assistant", "content": "e"}])");
  EXPECT_EQ(trained(elsewhere, with_tool, {}), "[c</s>][e</s>]");
  EXPECT_THAT(message_of<UserError>([&] {
                trained(
                    "{% for m in messages | reverse %}{{ m.role + ': ' + m.content + eos_token "
                    "}}{% endfor %}",
                    messages, {});
              }),
              HasSubstr("does not print the messages one after another"));
}

std::string zstd_of(const std::string& text) {
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 3));
  return packed;
}

void write_gzip(const std::string& path, const std::string& text) {
  gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
}

/// The same random conversations as lines and as an array, in every kind of file: the same tokens,
/// and what is trained on are the answers with their ends.
TEST(ChatData, EveryKindOfFileTrainsOnTheAnswers) {
  TempDir dir;
  const CounterRandom random(std::random_device{}(), RandomPurpose::kSplit);
  std::uint64_t draw = 0;
  Json rows = Json::array();
  std::map<std::string, int> answers;
  const std::array<std::string, 6> words{"naïve ", "<|im_end|>", "[train]", "\n", "x ", "{{ y }} "};
  for (int i = 0; i < 300; ++i) {
    Json messages = Json::array();
    const auto word = [&] {
      std::string text;
      for (std::uint64_t n = random.u64(draw++) % 5; n > 0; --n)
        text += words[random.u64(draw++) % words.size()];
      return text + std::to_string(i);
    };
    if (random.u64(draw++) % 2 == 0) messages.push_back({{"role", "system"}, {"content", word()}});
    for (std::uint64_t n = 1 + random.u64(draw++) % 3; n > 0; --n) {
      messages.push_back({{"role", "user"}, {"content", word()}});
      messages.push_back({{"role", "assistant"}, {"content", word()}});
      ++answers[messages.back()["content"].get<std::string>() + "<|im_end|>"];
    }
    rows.push_back({{"messages", messages}});
  }
  std::string lines, array = rows.dump(2);
  for (const Json& row : rows) lines += row.dump() + "\n";
  dir.write("a.jsonl", lines);
  dir.write("b.json", array);
  dir.write("c.jsonl.zst",
            zstd_of(lines.substr(0, lines.size() / 2)) + zstd_of(lines.substr(lines.size() / 2)));
  write_gzip(dir.file("d.json.gz"), array);
  std::string digest;
  for (const char* name : {"a.jsonl", "b.json", "c.jsonl.zst", "d.json.gz"}) {
    SCOPED_TRACE(name);
    DataSpec spec;
    spec.train.emplace_back().paths = {dir.file(name)};
    spec.train.back().chat.chat_template = "chatml";
    spec.seq_len = 512;
    spec.threads = 2;
    spec.cache_dir = dir.file("cache");
    const testing::FakeTokenizer tokenizer;
    const auto data = open_training_data(spec, tokenizer, {}, {});
    if (digest.empty()) digest = data->train_digests()[0];
    EXPECT_EQ(data->train_digests()[0], digest);
    std::map<std::string, int> trained;
    std::int64_t weights = 0;
    for (std::int64_t s = 0; s < data->train().num_sequences(); ++s) {
      const Batch batch = data->train().get_sequences(std::span(&s, 1));
      std::string text;
      for (std::size_t t = 0; t < batch.targets.size(); ++t) {
        weights += batch.weights[t] != 0 ? 1 : 0;
        if (batch.weights[t] != 0) text += static_cast<char>(batch.targets[t]);
        const bool ends = t + 1 == batch.weights.size() || batch.weights[t + 1] == 0;
        if (ends && !text.empty()) ++trained[std::exchange(text, std::string())];
      }
    }
    EXPECT_EQ(trained, answers);
    EXPECT_EQ(weights, data->summary().trained_tokens);
    EXPECT_EQ(data->summary().samples, 300);
    EXPECT_EQ(data->summary().without_trained_tokens, 0);
  }
  dir.write("cut.jsonl.zst", zstd_of(lines).substr(0, 1000));
  SourceSpec cut;
  cut.paths = {dir.file("cut.jsonl.zst")};
  EXPECT_THAT(message_of<UserError>(
                  [&] { tokenize_files(cut, testing::FakeTokenizer(), dir.file("x.tokens"), {}); }),
              HasSubstr("cut.jsonl.zst: incomplete zstd file"));
}

TEST(ChatData, TokenFilesResumeAndTruncate) {
  TempDir dir;
  std::string lines;
  for (int i = 0; i < 40; ++i)
    lines += Json{{"instruction", "q" + std::to_string(i)},
                  {"output", std::string(static_cast<std::size_t>(i), 'o')}}
                 .dump() +
             "\n";
  DataSpec spec;
  spec.train.emplace_back().paths = {dir.write("a.jsonl", lines)};
  spec.seq_len = 48;
  spec.cache_dir = dir.file("cache");
  const testing::FakeTokenizer tokenizer(true);
  const auto error = message_of<UserError>([&] { open_training_data(spec, tokenizer, {}, {}); });
  EXPECT_THAT(error, HasSubstr("samples are longer than seq_len = 48"));
  for (const ExcessLength excess :
       {ExcessLength::kDrop, ExcessLength::kTruncate, ExcessLength::kSplit}) {
    spec.excess_length = excess;
    const auto data = open_training_data(spec, tokenizer, {}, {});
    std::int64_t weights = 0;
    for (std::int64_t s = 0; s < data->train().num_sequences(); ++s) {
      for (const float w : data->train().get_sequences(std::span(&s, 1)).weights)
        weights += w != 0 ? 1 : 0;
    }
    EXPECT_EQ(weights, data->summary().trained_tokens);
    EXPECT_GT(weights, 40);
  }
  // BOS once, first: the built-in template leaves it to a tokenizer that wants it.
  const auto data = open_training_data(spec, tokenizer, {}, {});
  const std::int64_t first = 0;
  const Batch batch = data->train().get_sequences(std::span(&first, 1));
  EXPECT_EQ(batch.tokens[0], 256);
  EXPECT_NE(batch.tokens[1], 256);
}

}  // namespace
}  // namespace thimble
