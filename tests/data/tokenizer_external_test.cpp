// Published vocabularies against reference ids; needs the folder of shared data.
#include <cstdlib>

#include "core/base/random.h"
#include "tests/data/tokenizer_test_util.h"

namespace thimble {
namespace {

using Ids = std::vector<std::int32_t>;

std::filesystem::path shared_data() {
  const char* folder = std::getenv("THIMBLE_SHARED_DATA");
  return folder != nullptr ? folder : "../shared/data";
}

nlohmann::json external(const std::string& name) {
  for (const auto& item : fixture("external.json")) {
    if (item["name"] == name) return item;
  }
  ADD_FAILURE() << "no fixture " << name;
  return {};
}

/// `parse_special`: whether the library that made the ids reads special tokens in text, as
/// `tokenizers` does; SentencePiece takes them for letters.
void compare(const std::string& name, bool parse_special) {
  const auto item = external(name);
  const auto texts = fixture("texts.json");
  const auto path = shared_data() / item["path"].get<std::string>();
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no data: " << path;
  const auto tokenizer = load_tokenizer(path);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    SCOPED_TRACE(fmt::format("{}: text {}: {}", name, i, texts[i].dump()));
    const auto text = texts[i].get<std::string>();
    const Ids ids = tokenizer->encode(text, {.parse_special = parse_special});
    EXPECT_EQ(ids, item["plain"][i].get<Ids>());
    if (text.find("\u2581") == std::string::npos) {
      EXPECT_EQ(tokenizer->decode(ids), text);
    }
  }
  for (const auto& [file, sums] : item["corpora"].items()) {
    const std::string text = read_bytes(shared_data() / file);
    const Ids ids = tokenizer->encode(text, {.parse_special = parse_special});
    const std::string_view bytes(reinterpret_cast<const char*>(ids.data()),
                                 ids.size() * sizeof(std::int32_t));
    EXPECT_EQ(ids.size(), sums[0].get<std::size_t>()) << file;
    EXPECT_EQ(std::to_string(hash_name(bytes)), sums[1].get<std::string>()) << file;
    EXPECT_EQ(tokenizer->decode(ids), text) << file;
  }
}

TEST(TokenizerExternal, Gpt2) {
  compare("gpt2", true);
}
TEST(TokenizerExternal, Llama2) {
  compare("llama2", false);
}
TEST(TokenizerExternal, Stories260K) {
  compare("stories260K", false);
}

TEST(TokenizerExternal, Llama2SpecialTokens) {
  const auto path = shared_data() / "tokenizers/llama2_tokenizer.model";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no data: " << path;
  const auto tokenizer = load_tokenizer(path);
  EXPECT_EQ(tokenizer->vocab_size(), 32000);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_TRUE(tokenizer->add_bos());
  const Ids ids = tokenizer->encode("<s>Hello</s>", {.parse_special = true});
  ASSERT_EQ(ids.size(), 3u);
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(ids.back(), 2);
  EXPECT_EQ(tokenizer->decode(ids), "Hello");
}

}  // namespace
}  // namespace thimble
