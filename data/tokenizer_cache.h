// Remembers the ids of short words, one table per thread, so that encoding needs no lock and common
// words cost one look-up.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace thimble {

/// A direct-mapped table shared by all tokenizers of a thread; each tokenizer has its own `owner`
/// number.
class WordCache {
 public:
  /// The table of the calling thread (about 1.3 MiB, made on first use).
  static WordCache& of_this_thread();

  /// A number no other tokenizer of this process has.
  static std::uint32_t new_owner();

  /// Appends the ids of `word` to `ids` if they are known.
  bool find(std::uint32_t owner, std::string_view word, std::vector<std::int32_t>& ids) const;

  /// Remembers `ids` for `word` if both are short, forgetting what was in its place.
  void insert(std::uint32_t owner, std::string_view word, std::span<const std::int32_t> ids);

 private:
  static constexpr std::size_t kSlots = 1 << 14;
  static constexpr std::size_t kMaxWord = 34;
  static constexpr std::size_t kMaxIds = 8;
  struct Slot {
    std::uint64_t hash = 0;
    std::uint32_t owner = 0;
    std::uint8_t word_bytes = 0;
    std::uint8_t num_ids = 0;
    char word[kMaxWord] = {};
    std::int32_t ids[kMaxIds] = {};
  };
  WordCache() : slots_(kSlots) {}
  static std::uint64_t hash_word(std::uint32_t owner, std::string_view word);

  std::vector<Slot> slots_;
};

}  // namespace thimble
