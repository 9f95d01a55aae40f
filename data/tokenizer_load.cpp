// Finds out what kind of tokenizer a path holds.
#include <algorithm>

#include "core/base/error.h"
#include "core/base/text.h"
#include "data/tokenizer_reader.h"
#include "data/tokenizer_vocab.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

std::unique_ptr<Tokenizer> load_gpt2(const fs::path& vocab, const TokenizerConfig& config) {
  std::string merges_name = vocab.filename().string();
  merges_name.replace(merges_name.size() - std::string_view("vocab.json").size(), std::string::npos,
                      "merges.txt");
  const fs::path merges = vocab.parent_path() / merges_name;
  if (!is_there(merges)) {
    throw_user("{}: needs {} beside it, which does not exist", vocab.string(), merges_name);
  }
  return make_gpt2_tokenizer(read_tokenizer_file(vocab), read_tokenizer_file(merges),
                             vocab.string(), merges.string(), config);
}

std::unique_ptr<Tokenizer> load_file(const fs::path& path, const TokenizerConfig& config) {
  const std::string name = path.filename().string();
  if (name.ends_with("vocab.json")) return load_gpt2(path, config);
  if (name.ends_with(".json")) {
    return make_json_tokenizer(read_tokenizer_file(path), path.string(), config);
  }
  if (name.ends_with(".model")) {
    return make_sentencepiece_tokenizer(read_tokenizer_file(path), path.string(), config);
  }
  if (name.ends_with(".bin")) {
    return make_llama2c_tokenizer(read_tokenizer_file(path), path.string());
  }
  throw_user(
      "{}: not a tokenizer file by its name; supported: tokenizer.json, *.model (SentencePiece), "
      "*vocab.json with *merges.txt, *.bin (llama2.c)",
      path.string());
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& source) {
  if (source == "byte") return make_byte_tokenizer();
  std::error_code error;
  const auto status = fs::status(source, error);
  if (!fs::exists(status)) {
    throw_user("tokenizer '{}': no such file or directory; 'byte' needs no file", source.string());
  }
  const std::vector<std::string> usual = {"tokenizer.json", "tokenizer.model", "vocab.json",
                                          "tokenizer.bin"};
  if (!fs::is_directory(status)) {
    const bool named_usual =
        std::find(usual.begin(), usual.end(), source.filename()) != usual.end();
    const fs::path parent = source.has_parent_path() ? source.parent_path() : fs::path(".");
    return load_file(source, read_tokenizer_config(named_usual ? parent : fs::path()));
  }
  for (const std::string& name : usual) {
    if (is_there(source / name)) return load_file(source / name, read_tokenizer_config(source));
  }
  throw_user("{}: holds no tokenizer; looked for {}", source.string(), join(usual));
}

}  // namespace thimble
