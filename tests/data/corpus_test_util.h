// Temporary folders, small files and a one-byte-one-token tokenizer for the tests of the corpus
// side of data/.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "data/token_writer.h"
#include "data/tokenizer.h"

namespace thimble::testing {

class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "thimble_data_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw_errno("mkdtemp", name);
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  std::string file(const std::string& name) const { return (path_ / name).string(); }
  std::string write(const std::string& name, std::string_view text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return file(name);
  }

 private:
  std::filesystem::path path_;
};

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

/// Token = byte; BOS 256 (if `bos`), EOS 257.
class FakeTokenizer final : public Tokenizer {
 public:
  explicit FakeTokenizer(bool bos = false, std::uint64_t digest = 7) {
    info_.name = "fake";
    info_.vocab_size = 258;
    info_.bos_id = 256;
    info_.eos_id = 257;
    info_.add_bos = bos;
    info_.digest = digest;
  }
  void encode_to(std::string_view text, EncodeOptions,
                 std::vector<std::int32_t>& ids) const override {
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  }
};

struct TestDocument {
  std::vector<std::int32_t> tokens;
  std::int64_t prompt = 0;
};

/// Writes the documents as a token file.
inline void write_tokens(const std::filesystem::path& path,
                         const std::vector<TestDocument>& documents, std::int64_t vocab_size,
                         bool has_prompts) {
  TokenWriter writer(path, {.tokenizer_digest = 7,
                            .vocab_size = vocab_size,
                            .has_prompts = has_prompts,
                            .fingerprint = 1});
  TokenChunk chunk;
  for (const TestDocument& document : documents) {
    chunk.tokens.insert(chunk.tokens.end(), document.tokens.begin(), document.tokens.end());
    chunk.records.push_back({.tokens = static_cast<std::int64_t>(document.tokens.size()),
                             .prompt_tokens = document.prompt,
                             .hash = chunk.records.size()});
    chunk.text_bytes += static_cast<std::int64_t>(document.tokens.size());
  }
  ASSERT_FALSE(writer.skip_if_done(0));
  writer.append(chunk);
  writer.finish();
}

/// The message of the exception of type E that `action` throws; "" and a failure if it throws none.
template <typename E, typename Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "no exception of the expected type";
  return {};
}

}  // namespace thimble::testing
