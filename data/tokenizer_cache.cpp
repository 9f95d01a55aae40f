#include "data/tokenizer_cache.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/base/random.h"

namespace thimble {

WordCache& WordCache::of_this_thread() {
  thread_local WordCache cache;
  return cache;
}

std::uint32_t WordCache::new_owner() {
  static std::atomic<std::uint32_t> last{0};
  return ++last;
}

std::uint64_t WordCache::hash_word(std::uint32_t owner, std::string_view word) {
  std::uint64_t hash = mix64(owner, word.size());
  while (!word.empty()) {
    std::uint64_t piece = 0;
    const std::size_t bytes = std::min<std::size_t>(word.size(), sizeof(piece));
    std::memcpy(&piece, word.data(), bytes);
    hash = mix64(hash ^ piece, bytes);
    word.remove_prefix(bytes);
  }
  return hash;
}

bool WordCache::find(std::uint32_t owner, std::string_view word,
                     std::vector<std::int32_t>& ids) const {
  if (word.size() > kMaxWord) return false;
  const std::uint64_t hash = hash_word(owner, word);
  const Slot& slot = slots_[hash % kSlots];
  if (slot.hash != hash || slot.owner != owner ||
      word != std::string_view(slot.word, slot.word_bytes)) {
    return false;
  }
  ids.insert(ids.end(), slot.ids, slot.ids + slot.num_ids);
  return true;
}

void WordCache::insert(std::uint32_t owner, std::string_view word,
                       std::span<const std::int32_t> ids) {
  if (word.size() > kMaxWord || ids.size() > kMaxIds) return;
  const std::uint64_t hash = hash_word(owner, word);
  Slot& slot = slots_[hash % kSlots];
  slot.hash = hash;
  slot.owner = owner;
  slot.word_bytes = static_cast<std::uint8_t>(word.size());
  slot.num_ids = static_cast<std::uint8_t>(ids.size());
  std::copy(word.begin(), word.end(), slot.word);
  std::copy(ids.begin(), ids.end(), slot.ids);
}

}  // namespace thimble
