// Token files: what is written is read, and no damaged or hostile file is believed.
#include "data/token_file.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "core/io/crc32c.h"
#include "tests/data/corpus_test_util.h"

namespace thimble {
namespace {

using testing::message_of;
using testing::read_bytes;
using testing::TempDir;
using testing::TestDocument;
using testing::write_tokens;

std::vector<TestDocument> random_documents(int count, std::int32_t vocab_size, bool prompts) {
  std::mt19937 random(static_cast<unsigned>(vocab_size));
  std::vector<TestDocument> documents(static_cast<std::size_t>(count));
  for (auto& d : documents) {
    d.tokens.resize(1 + random() % 50);
    for (auto& token : d.tokens)
      token = static_cast<std::int32_t>(random() % static_cast<unsigned>(vocab_size));
    if (prompts) d.prompt = static_cast<std::int64_t>(random() % (d.tokens.size() + 1));
  }
  documents[0].tokens[0] = vocab_size - 1;
  return documents;
}

void read_everything(const std::string& path) {
  const TokenFile file(path);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.num_tokens()));
  file.copy_tokens(0, tokens);
  for (const std::int32_t token : tokens)
    ASSERT_TRUE(token >= 0 && token < file.header().vocab_size);
  for (std::int64_t i = 0; i < file.num_documents(); ++i) {
    ASSERT_TRUE(file.document_tokens(i) >= 1 && file.prompt_tokens(i) <= file.document_tokens(i));
  }
}

TEST(TokenFile, ReadsWhatWasWrittenInBothWidths) {
  TempDir dir;
  for (const std::int32_t vocab : {1, 300, 65536, 65537, 200000}) {
    for (const bool prompts : {false, true}) {
      const std::string path = dir.file(fmt::format("{}{}.tokens", vocab, prompts));
      const auto documents = random_documents(3000, vocab, prompts);
      write_tokens(path, documents, vocab, prompts);
      const TokenFile file(path);
      ASSERT_EQ(file.num_documents(), 3000);
      EXPECT_EQ(file.header().token_bytes, vocab <= 65536 ? 2u : 4u);
      EXPECT_EQ(file.has_prompts(), prompts);
      for (std::int64_t i = 0; i < 3000; ++i) {
        const TestDocument& d = documents[static_cast<std::size_t>(i)];
        ASSERT_EQ(file.document_tokens(i), static_cast<std::int64_t>(d.tokens.size()));
        ASSERT_EQ(file.prompt_tokens(i), d.prompt);
        std::vector<std::int32_t> tokens(d.tokens.size());
        file.copy_tokens(file.document_begin(i), tokens);
        ASSERT_EQ(tokens, d.tokens);
      }
    }
  }
}

TEST(TokenFile, EveryTruncationIsAnError) {
  TempDir dir;
  write_tokens(dir.file("a.tokens"), random_documents(5, 300, true), 300, true);
  const std::string whole = read_bytes(dir.file("a.tokens"));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    // Between header and tokens one length is as good as another.
    if (size == sizeof(TokenFileHeader) + 2) size = static_cast<std::size_t>(kTokensOffset) - 2;
    const std::string path = dir.write("cut.tokens", std::string_view(whole).substr(0, size));
    if (size < 8) {
      EXPECT_THROW(TokenFile{path}, UserError) << size;
    } else {
      EXPECT_THROW(TokenFile{path}, SystemError) << size;
    }
  }
  EXPECT_THROW(TokenFile{dir.write("long.tokens", whole + '\0')}, SystemError);
}

TEST(TokenFile, EveryFlippedByteIsNoticed) {
  TempDir dir;
  write_tokens(dir.file("a.tokens"), random_documents(5, 300, true), 300, true);
  const std::string whole = read_bytes(dir.file("a.tokens"));
  const TokenFileHeader header = TokenFile(dir.file("a.tokens")).header();
  const std::int64_t token_end = kTokensOffset + header.num_tokens * header.token_bytes;
  std::mt19937 random(5);
  for (std::size_t at = 0; at < whole.size(); ++at) {
    // The bytes between header and tokens, and between tokens and index, mean nothing.
    if (at == sizeof(TokenFileHeader)) at = static_cast<std::size_t>(kTokensOffset);
    const auto position = static_cast<std::int64_t>(at);
    if (position >= token_end && position < header.index_offset) continue;
    std::string flipped = whole;
    flipped[at] = static_cast<char>(flipped[at] ^ static_cast<char>(1 + random() % 255));
    const std::string path = dir.write("flip.tokens", flipped);
    EXPECT_ANY_THROW(read_everything(path)) << at;
  }
}

TEST(TokenFile, CutsAndChangesWhileInUseAreNoticed) {
  TempDir dir;
  // Several blocks of tokens, and an index of several pages.
  const auto documents = random_documents(9000, 300, true);
  const auto fresh = [&](const std::string& name) {
    write_tokens(dir.file(name), documents, 300, true);
    return dir.file(name);
  };
  const std::string whole = read_bytes(fresh("whole.tokens"));
  const auto token_bytes = 2 * TokenFile(dir.file("whole.tokens")).num_tokens();
  std::mt19937 random(9);
  std::vector<std::uintmax_t> sizes{0, 1, 4096, whole.size() - 1};
  for (int i = 0; i < 20; ++i) sizes.push_back(random() % whole.size());
  for (const std::uintmax_t size : sizes) {
    const std::string path = fresh("cut.tokens");
    const TokenFile file(path);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.num_tokens()));
    file.copy_tokens(0, tokens);
    std::filesystem::resize_file(path, size);
    EXPECT_THROW(file.check_unchanged(), SystemError) << size;
    EXPECT_THROW(file.copy_tokens(0, tokens), SystemError) << size;
  }
  // Cut between the check and the read: the index may be gone, but nothing is made of that.
  {
    const std::string path = fresh("index.tokens");
    const TokenFile file(path);
    std::filesystem::resize_file(path, static_cast<std::uintmax_t>(kTokensOffset + token_bytes));
    EXPECT_THROW(EXPECT_EQ(file.document_begin(8999), -1), SystemError);
    EXPECT_THROW(EXPECT_EQ(file.prompt_tokens(0), -1), SystemError);
  }
  const std::string path = fresh("changed.tokens");
  const TokenFile file(path);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.num_tokens())), again = tokens;
  file.copy_tokens(0, tokens);
  const auto overwrite = [&](std::int64_t at, const std::string& bytes) {
    std::fstream out(path, std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(at);
    out << bytes;
  };
  // The same bytes once more change nothing.
  overwrite(kTokensOffset, whole.substr(static_cast<std::size_t>(kTokensOffset), 1000));
  file.copy_tokens(0, again);
  EXPECT_EQ(again, tokens);
  overwrite(kTokensOffset + 70000, "?!");
  EXPECT_THROW(file.copy_tokens(0, again), SystemError);
  EXPECT_TRUE(std::filesystem::exists(path));
}

/// The file with `edit` applied to its header and both checksums made right again.
template <typename Edit>
std::string forge(std::string bytes, Edit edit) {
  TokenFileHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  edit(header, bytes);
  const auto whole = std::as_bytes(std::span(bytes));
  if (header.index_offset >= 0 && static_cast<std::size_t>(header.index_offset) <= bytes.size()) {
    header.index_crc = crc32c(whole.subspan(static_cast<std::size_t>(header.index_offset)));
  }
  header.header_crc =
      crc32c(std::as_bytes(std::span(&header, 1)).first(offsetof(TokenFileHeader, header_crc)));
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes;
}

TEST(TokenFile, ForgedFilesWithRightChecksumsAreRefused) {
  TempDir dir;
  write_tokens(dir.file("a.tokens"), random_documents(20, 300, true), 300, true);
  const std::string whole = read_bytes(dir.file("a.tokens"));
  const auto expect_refused = [&](auto edit) {
    const std::string path = dir.write("forged.tokens", forge(whole, edit));
    EXPECT_THROW(read_everything(path), SystemError);
  };
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;
  read_everything(dir.write("same.tokens", forge(whole, [](auto&, auto&) {})));
  for (const std::int64_t value :
       {kHuge, -kHuge, std::int64_t{-1}, std::int64_t{0}, std::int64_t{19}, INT64_MAX, INT64_MIN}) {
    expect_refused([&](TokenFileHeader& h, std::string&) { h.num_documents = value; });
    expect_refused([&](TokenFileHeader& h, std::string&) { h.num_tokens = value; });
    expect_refused([&](TokenFileHeader& h, std::string&) { h.index_offset = value; });
    expect_refused([&](TokenFileHeader& h, std::string&) { h.vocab_size = value; });
  }
  expect_refused([](TokenFileHeader& h, std::string&) { h.token_bytes = 0; });
  expect_refused([](TokenFileHeader& h, std::string&) { h.token_bytes = 4; });
  expect_refused([](TokenFileHeader& h, std::string&) { h.has_prompts = 0; });
  expect_refused([](TokenFileHeader& h, std::string&) { h.has_prompts = 2; });
  const auto index_entry = [](TokenFileHeader& h, std::string& bytes, std::int64_t i,
                              std::uint64_t value) {
    std::memcpy(bytes.data() + h.index_offset + 8 * i, &value, 8);
  };
  for (const std::int64_t i : {0, 1, 10, 20}) {
    expect_refused([&](auto& h, auto& b) { index_entry(h, b, i, ~std::uint64_t{0}); });
    expect_refused([&](auto& h, auto& b) { index_entry(h, b, i, i == 0 ? 1 : 0); });
  }
  expect_refused([](TokenFileHeader& h, std::string& b) {
    b[static_cast<std::size_t>(h.index_offset) + 8 * 21 + 3] = 1;
  });
  // A token outside the vocabulary under a right block checksum.
  expect_refused([](TokenFileHeader& h, std::string&) { h.vocab_size = 299; });
}

TEST(TokenFile, MessagesForOtherFiles) {
  TempDir dir;
  write_tokens(dir.file("a.tokens"), random_documents(3, 300, false), 300, false);
  EXPECT_EQ(
      message_of<UserError>([&] { TokenFile{dir.write("b.tokens", "hello, world")}; }),
      dir.file("b.tokens") + ": not a token file of Thimble; write one with thimble tokenize");
  const std::string newer =
      forge(read_bytes(dir.file("a.tokens")), [](auto& h, auto&) { h.version = 9; });
  EXPECT_EQ(message_of<UserError>([&] { TokenFile{dir.write("c.tokens", newer)}; }),
            dir.file("c.tokens") +
                ": token file of version 9; this program reads versions 2 and 3; tokenise again");
  const TokenFile file(dir.file("a.tokens"));
  file.check_tokenizer(7, "fake");
  EXPECT_EQ(message_of<UserError>([&] { file.check_tokenizer(8, "other"); }),
            dir.file("a.tokens") +
                ": written with another tokenizer (digest 0000000000000007) than 'other' "
                "(digest 0000000000000008); tokenise the text again");
  EXPECT_THROW(TokenFile{dir.file("missing.tokens")}, UserError);
}

}  // namespace
}  // namespace thimble
