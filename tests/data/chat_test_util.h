// Fixtures of chats: conversations, and what transformers makes of them.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <ctime>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/random.h"
#include "data/template/template.h"
#include "tests/data/tokenizer_test_util.h"

namespace thimble {

using Json = nlohmann::ordered_json;

inline Json chat_fixture(const std::string& name) {
  return Json::parse(read_bytes("tests/fixtures/chat/" + name));
}

/// The fixtures hold long texts as "repeat N".
inline void make_long(Json& value) {
  if (value.is_string() && value.get<std::string>().starts_with("repeat ")) {
    const int count = std::stoi(value.get<std::string>().substr(7));
    std::string text;
    for (int i = 0; i < count; ++i) text += "all work and no play makes Jack a dull boy. ";
    value = text;
  } else if (value.is_structured()) {
    for (Json& part : value) make_long(part);
  }
}

struct Conversations {
  struct Row {
    std::string name;
    Json messages, tools;
  };
  std::vector<Row> rows;

  Conversations() {
    for (Json item : chat_fixture("conversations.json")) {
      make_long(item["messages"]);
      rows.push_back({item["name"], item["messages"], item["tools"]});
    }
  }
};

/// The moment of the fixtures: 2024-07-26 13:05:09 in local time.
inline std::time_t fixture_time() {
  std::tm local{.tm_sec = 9,
                .tm_min = 5,
                .tm_hour = 13,
                .tm_mday = 26,
                .tm_mon = 6,
                .tm_year = 124,
                .tm_isdst = -1};
  return std::mktime(&local);
}

inline jinja::RenderRequest request_for(const Json& messages, const Json& tools, bool prompted) {
  jinja::RenderRequest request;
  request.now = fixture_time();
  const auto set = [&](const char* name, jinja::Value value) {
    request.variables.items.emplace_back(name, std::move(value));
  };
  set("messages", jinja::from_json(messages));
  set("tools", jinja::from_json(tools));
  set("documents", jinja::Value::none());
  set("add_generation_prompt", jinja::Value::boolean(prompted));
  for (const auto& [name, text] : {std::pair{"bos_token", "<s>"},
                                   {"eos_token", "</s>"},
                                   {"unk_token", "<unk>"},
                                   {"pad_token", "</s>"}})
    set(name, jinja::Value::text(text));
  return request;
}

/// The text, or nothing if the template or the conversation is refused.
inline std::optional<std::string> render_text(const std::string& source, const std::string& name,
                                              const Json& messages, const Json& tools,
                                              bool prompted) {
  try {
    return jinja::Template::parse(source, name).render(request_for(messages, tools, prompted)).text;
  } catch (const UserError&) {
    return std::nullopt;
  }
}

/// `expected`: null, the text, or its number of bytes and their FNV-1a.
inline void expect_text(const std::optional<std::string>& text, const Json& expected) {
  ASSERT_EQ(text.has_value(), !expected.is_null());
  if (!text) return;
  if (expected.is_string()) {
    EXPECT_EQ(*text, expected.get<std::string>());
  } else {
    EXPECT_EQ(text->size(), expected[0].get<std::size_t>());
    EXPECT_EQ(std::to_string(hash_name(*text)), expected[1].get<std::string>());
  }
}

}  // namespace thimble
