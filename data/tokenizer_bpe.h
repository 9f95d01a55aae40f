// Byte-pair encoding: turns one piece of text into ids by merging neighbours, best rank first,
// leftmost on ties.
//
// The same model serves byte-level vocabularies (every symbol is a byte) and character vocabularies
// (SentencePiece style, with byte fallback or an unknown token). It knows nothing of normalisation,
// splitting or special tokens.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace thimble {

/// string -> id with look-up by string_view.
struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const {
    return std::hash<std::string_view>{}(text);
  }
};
using TextToId = std::unordered_map<std::string, std::int32_t, TextHash, std::equal_to<>>;

/// Ids above this are refused: a hostile file must not make us allocate by its largest id.
inline constexpr std::int32_t kMaxTokenId = (1 << 22) - 1;

/// Longest spelling of a token.
inline constexpr std::size_t kMaxTokenBytes = 1 << 16;

struct BpeConfig {
  TextToId vocab;                // byte-level: keys are the raw bytes
  bool byte_level = false;       // initial symbols are bytes, not characters
  bool byte_fallback = false;    // a character outside the vocabulary becomes <0xNN> tokens
  bool fuse_unknown = false;     // neighbouring unknown characters become one unknown token
  bool ignore_merges = false;    // a piece that is itself in the vocabulary is taken whole
  std::int32_t unknown_id = -1;  // -1: characters that nothing covers are dropped
  std::string space;  // the character that stands for a space ("" = pieces are words already)
};

class BpeModel {
 public:
  explicit BpeModel(BpeConfig config);

  /// Declares that neighbours (left, right) merge into `result`; lower ranks merge first. A later
  /// declaration of the same pair replaces the earlier one.
  void add_merge(std::int32_t left, std::int32_t right, std::int32_t rank, std::int32_t result);

  /// To be called once, after the last add_merge.
  void finish();

  /// Appends the ids of `piece`, which is well-formed UTF-8 unless the model is byte-level.
  void encode(std::string_view piece, std::vector<std::int32_t>& ids) const;

  /// Appends the ids of bytes that are not UTF-8: byte tokens, else the unknown token, else
  /// nothing.
  void encode_bytes(std::string_view bytes, std::vector<std::int32_t>& ids) const;

  const TextToId& vocab() const { return config_.vocab; }
  bool byte_level() const { return config_.byte_level; }

 private:
  struct Merge {
    std::uint64_t pair = kNoPair;
    std::int32_t rank = 0;
    std::int32_t result = 0;
  };
  static constexpr std::uint64_t kNoPair = ~std::uint64_t{0};

  void split_at_spaces();
  void encode_word(std::string_view word, std::vector<std::int32_t>& ids) const;
  void initial_symbols(std::string_view word, std::vector<std::int32_t>& ids) const;
  void merge(std::vector<std::int32_t>& symbols) const;
  const Merge* find_merge(std::int32_t left, std::int32_t right) const;
  bool add_fallback(std::string_view character, std::vector<std::int32_t>& ids) const;

  BpeConfig config_;
  std::uint32_t owner_;
  std::int32_t
      byte_ids_[256];  // byte-level: the symbol of a byte; otherwise its <0xNN> token; -1 = none
  std::int32_t ascii_ids_[128];  // character models: the symbol of an ASCII character, -1 = none
  bool has_all_bytes_ = true;
  bool words_start_at_spaces_ = false;
  std::vector<Merge> declared_;
  std::vector<Merge> table_;  // open addressing, power of two, at most half full
};

}  // namespace thimble
