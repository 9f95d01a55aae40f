// Files for the tokenizer tests: a folder that removes itself, fixtures, hand-made vocabularies.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "data/tokenizer.h"

namespace thimble {

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

inline nlohmann::json fixture(const std::string& name) {
  return nlohmann::json::parse(read_bytes("tests/fixtures/tokenizers/" + name));
}

/// The base tokenizer.json of the fixtures with sections replaced; "model" is merged.
inline nlohmann::json patched(nlohmann::json base, const nlohmann::json& patch) {
  for (const auto& [key, value] : patch.items()) {
    if (key == "model") {
      base["model"].update(value);
    } else {
      base[key] = value;
    }
  }
  return base;
}

/// The pipeline of the named case of the fixtures, as the text of a tokenizer.json.
inline nlohmann::json fixture_case(const std::string& name) {
  for (const auto& item : fixture("cases.json")) {
    if (item["name"] == name) {
      return patched(fixture(item["base"].get<std::string>() + ".json"), item["patch"]);
    }
  }
  ADD_FAILURE() << "no case " << name;
  return {};
}

inline std::unique_ptr<Tokenizer> load_json(const nlohmann::json& tokenizer) {
  return load_tokenizer_json(tokenizer.dump(), "t.json");
}

class TokenizerFolder {
 public:
  TokenizerFolder() {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            fmt::format("thimble_tokenizer_{}_{}", getpid(), count++);
    std::filesystem::create_directories(path_);
  }
  ~TokenizerFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::filesystem::path write(const std::string& name, std::string_view content) const {
    std::ofstream file(path_ / name, std::ios::binary);
    file << content;
    return path_ / name;
  }
  std::filesystem::path write_json(const std::string& name, const nlohmann::json& content) const {
    return write(name, content.dump());
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Runs `action` and expects a UserError whose message contains every one of `parts`.
template <typename Action>
void expect_user_error(Action&& action, const std::vector<std::string>& parts) {
  try {
    action();
    ADD_FAILURE() << "no error; expected one with '" << parts.front() << "'";
  } catch (const UserError& error) {
    for (const std::string& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << "'" << part << "' is not in: " << error.what();
    }
  }
}

template <typename T>
void put(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

struct TestPiece {
  std::string text;
  float score;
  int type;  // SentencePiece: 1 normal, 2 unknown, 3 control, 6 byte
};

/// <unk>, <s>, </s>, 256 byte tokens, then `words`, best first; `space` is written for each ' '.
inline std::vector<TestPiece> test_pieces(const std::vector<std::string>& words,
                                          const std::string& space) {
  std::vector<TestPiece> pieces = {{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}};
  for (int byte = 0; byte < 256; ++byte) pieces.push_back({fmt::format("<0x{:02X}>", byte), 0, 6});
  for (const std::string& word : words) {
    std::string text;
    for (const char c : word) text += c == ' ' ? space : std::string(1, c);
    pieces.push_back({text, -static_cast<float>(pieces.size()), 1});
  }
  return pieces;
}

inline std::string llama2c_file(const std::vector<TestPiece>& pieces) {
  std::string out;
  put<std::int32_t>(out, 27);
  for (const TestPiece& piece : pieces) {
    put<float>(out, piece.score);
    put<std::int32_t>(out, static_cast<std::int32_t>(piece.text.size()));
    out += piece.text;
  }
  return out;
}

inline std::string wire_varint(std::uint64_t value) {
  std::string out;
  for (; value >= 128; value >>= 7) out += static_cast<char>((value & 127) | 128);
  return out + static_cast<char>(value);
}
inline std::string wire_integer(unsigned field, std::uint64_t value) {
  return wire_varint(field << 3) + wire_varint(value);
}
inline std::string sent_bytes(unsigned field, const std::string& bytes) {
  return wire_varint(field << 3 | 2) + wire_varint(bytes.size()) + bytes;
}

/// A SentencePiece BPE model with byte fallback and Llama's treatment of spaces.
inline std::string sentencepiece_file(const std::vector<TestPiece>& pieces,
                                      std::uint64_t model_type = 2,
                                      const std::string& character_map = "") {
  std::string out;
  for (const TestPiece& piece : pieces) {
    std::string score;
    put<float>(score, piece.score);
    out += sent_bytes(1, sent_bytes(1, piece.text) + wire_varint(2 << 3 | 5) + score +
                             wire_integer(3, static_cast<std::uint64_t>(piece.type)));
  }
  out += sent_bytes(2, wire_integer(3, model_type) + wire_integer(35, 1));
  std::string normalizer = sent_bytes(1, "identity");
  if (!character_map.empty()) normalizer += sent_bytes(2, character_map);
  out += sent_bytes(3, normalizer + wire_integer(3, 1) + wire_integer(4, 0) + wire_integer(5, 1));
  return out;
}

}  // namespace thimble
