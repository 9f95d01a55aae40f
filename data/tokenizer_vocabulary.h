// The vocabulary of a tokenizer as its files spell it, for programs that bring an encoder of their
// own: tokens with their scores and kinds, merges, the patterns that cut a text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace thimble {

/// What a token is, by SentencePiece's numbers.
enum class TokenKind : std::uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

struct VocabularyToken {
  std::string text;  // a space is U+2581, or byte-level spelled; "" of an id that has no token
  float score = 0;   // pieces: the pair whose token has the highest is merged first
  TokenKind kind = TokenKind::kUnused;
};

struct TokenizerVocabulary {
  /// Byte-level BPE, where every byte is a visible character; otherwise pieces of SentencePiece's
  /// BPE with scores and byte tokens.
  bool byte_level = false;
  std::vector<VocabularyToken> tokens = {};  // by id
  std::vector<std::string> merges = {};      // byte-level: "left right", by rank
  std::vector<std::string> patterns = {};    // byte-level: the text is cut at matches of each
  bool dummy_prefix = false;                 // pieces: a space is put in front of a text
};

/// Reads the vocabulary of what load_tokenizer() reads, by the same rules. Throws UserError: for
/// what load_tokenizer() refuses, and for unigram models and splitters that have no such form.
TokenizerVocabulary read_vocabulary(const std::filesystem::path& source);

/// The parts of single files. `name` stands for the file in messages.
TokenizerVocabulary byte_vocabulary();
TokenizerVocabulary sentencepiece_vocabulary(std::string_view bytes, const std::string& name);
TokenizerVocabulary llama2c_vocabulary(std::string_view bytes, const std::string& name);
TokenizerVocabulary json_vocabulary(std::string_view text, const std::string& name);
TokenizerVocabulary gpt2_vocabulary(std::string_view vocab, std::string_view merges,
                                    const std::string& name);

}  // namespace thimble
