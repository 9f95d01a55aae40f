// Every pipeline of the fixtures against the ids of the reference implementation.
#include "tests/data/tokenizer_test_util.h"

namespace thimble {
namespace {

using Ids = std::vector<std::int32_t>;

void compare_case(const nlohmann::json& item, const nlohmann::json& texts) {
  const auto base = fixture(item["base"].get<std::string>() + ".json");
  const auto tokenizer = load_json(patched(base, item["patch"]));
  ASSERT_EQ(item["plain"].size(), texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    SCOPED_TRACE(
        fmt::format("{}: text {}: {}", item["name"].get<std::string>(), i, texts[i].dump()));
    const auto text = texts[i].get<std::string>();
    const auto key = std::to_string(i);
    const Ids plain = item["plain"][i];
    EXPECT_EQ(tokenizer->encode(text, {.parse_special = false}), plain);
    const Ids special = item["special"].contains(key) ? item["special"][key].get<Ids>() : plain;
    EXPECT_EQ(tokenizer->encode(text), special);
    const auto decoded =
        item["decoded"].contains(key) ? item["decoded"][key].get<std::string>() : text;
    EXPECT_EQ(tokenizer->decode(plain), decoded);
    for (const std::int32_t id : special) EXPECT_LT(id, tokenizer->vocab_size());
  }
}

TEST(TokenizerFixture, AllPipelines) {
  const auto texts = fixture("texts.json");
  const auto cases = fixture("cases.json");
  ASSERT_GE(cases.size(), 28u);
  for (const auto& item : cases) compare_case(item, texts);
}

TEST(TokenizerFixture, DocumentFrames) {
  const auto llama3 = load_json(fixture_case("llama3"));
  EXPECT_TRUE(llama3->add_bos());
  EXPECT_FALSE(llama3->add_eos());
  EXPECT_EQ(llama3->bos_id(), llama3->special_id("<|begin|>"));
  EXPECT_TRUE(llama3->is_special(*llama3->bos_id()));
  const auto qwen2 = load_json(fixture_case("qwen2"));
  EXPECT_FALSE(qwen2->add_bos());
  EXPECT_EQ(qwen2->bos_id(), std::nullopt);
  const auto mistral = load_json(fixture_case("mistral"));
  EXPECT_TRUE(mistral->add_bos());
  EXPECT_TRUE(mistral->add_eos());
  EXPECT_EQ(mistral->bos_id(), 1);
  EXPECT_EQ(mistral->eos_id(), 2);
}

}  // namespace
}  // namespace thimble
