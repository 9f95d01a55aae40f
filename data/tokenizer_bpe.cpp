#include "data/tokenizer_bpe.h"

#include <algorithm>
#include <bit>
#include <tuple>

#include "core/base/numeric.h"
#include "core/base/random.h"
#include "data/tokenizer_cache.h"
#include "data/tokenizer_text.h"

namespace thimble {
namespace {

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

std::size_t pair_slot(std::uint64_t pair, std::size_t mask) {
  return static_cast<std::size_t>((pair * 0x9e3779b97f4a7c15ull) >> 20) & mask;
}

/// A merge that may happen: of the symbol at `left` with its right neighbour.
struct Candidate {
  std::int32_t rank;
  std::int32_t left;
  std::int32_t left_id;
  std::int32_t right_id;
  std::int32_t result;
};

/// Orders a heap so that its top has the lowest rank, leftmost on ties.
bool merges_later(const Candidate& a, const Candidate& b) {
  return std::tie(a.rank, a.left) > std::tie(b.rank, b.left);
}

/// Reused between words so that encoding does not allocate.
struct Scratch {
  std::vector<std::int32_t> symbols;
  std::vector<std::int32_t> next;
  std::vector<std::int32_t> previous;
  std::vector<Candidate> heap;
};

Scratch& scratch() {
  thread_local Scratch buffers;
  return buffers;
}

std::int32_t lookup(const TextToId& vocab, std::string_view text) {
  const auto found = vocab.find(text);
  return found == vocab.end() ? -1 : found->second;
}

constexpr std::int32_t kMerged = -2;  // a symbol that its left neighbour has absorbed

}  // namespace

BpeModel::BpeModel(BpeConfig config) : config_(std::move(config)), owner_(WordCache::new_owner()) {
  for (int byte = 0; byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    byte_ids_[byte] = config_.byte_level
                          ? lookup(config_.vocab, {&text, 1})
                          : lookup(config_.vocab, fallback_token(static_cast<std::uint8_t>(byte)));
    has_all_bytes_ = has_all_bytes_ && byte_ids_[byte] >= 0;
    if (byte < 128) ascii_ids_[byte] = lookup(config_.vocab, {&text, 1});
  }
  split_at_spaces();
}

/// If no token has a space after another character, no merge crosses from a character to a
/// following space, and text may be cut there without changing a single id. Whole documents then
/// become short words that the cache knows.
void BpeModel::split_at_spaces() {
  const std::string& space = config_.space;
  if (space.empty() || config_.ignore_merges || !config_.vocab.contains(space)) return;
  words_start_at_spaces_ =
      std::none_of(config_.vocab.begin(), config_.vocab.end(), [&](auto& item) {
        std::string_view rest = item.first;
        while (rest.starts_with(space)) rest.remove_prefix(space.size());
        return rest.find(space) != std::string_view::npos;
      });
}

void BpeModel::add_merge(std::int32_t left, std::int32_t right, std::int32_t rank,
                         std::int32_t result) {
  declared_.push_back({pair_key(left, right), rank, result});
}

void BpeModel::finish() {
  table_.assign(std::bit_ceil(declared_.size() * 2 + 2), Merge{});
  const std::size_t mask = table_.size() - 1;
  for (const Merge& merge : declared_) {
    std::size_t slot = pair_slot(merge.pair, mask);
    while (table_[slot].pair != kNoPair && table_[slot].pair != merge.pair)
      slot = (slot + 1) & mask;
    table_[slot] = merge;
  }
  declared_ = {};
}

const BpeModel::Merge* BpeModel::find_merge(std::int32_t left, std::int32_t right) const {
  const std::uint64_t pair = pair_key(left, right);
  const std::size_t mask = table_.size() - 1;
  for (std::size_t slot = pair_slot(pair, mask);; slot = (slot + 1) & mask) {
    if (table_[slot].pair == pair) return &table_[slot];
    if (table_[slot].pair == kNoPair) return nullptr;
  }
}

void BpeModel::encode(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (!words_start_at_spaces_) return encode_word(piece, ids);
  const std::string& space = config_.space;
  while (!piece.empty()) {
    std::size_t spaces = 0;
    while (piece.substr(spaces).starts_with(space)) spaces += space.size();
    const std::size_t end = std::min(piece.find(space, spaces), piece.size());
    encode_word(piece.substr(0, end), ids);
    piece.remove_prefix(end);
  }
}

void BpeModel::encode_word(std::string_view word, std::vector<std::int32_t>& ids) const {
  WordCache& cache = WordCache::of_this_thread();
  if (cache.find(owner_, word, ids)) return;
  std::vector<std::int32_t>& symbols = scratch().symbols;
  symbols.clear();
  const std::int32_t whole = config_.ignore_merges ? lookup(config_.vocab, word) : -1;
  if (whole >= 0) {
    symbols.push_back(whole);
  } else {
    initial_symbols(word, symbols);
    if (symbols.size() > 1) merge(symbols);
  }
  cache.insert(owner_, word, symbols);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

bool BpeModel::add_fallback(std::string_view character, std::vector<std::int32_t>& ids) const {
  if (!config_.byte_fallback) return false;
  const auto id_of = [&](char c) { return byte_ids_[static_cast<std::uint8_t>(c)]; };
  if (!has_all_bytes_ &&
      std::any_of(character.begin(), character.end(), [&](char c) { return id_of(c) < 0; })) {
    return false;
  }
  for (const char c : character) ids.push_back(id_of(c));
  return true;
}

void BpeModel::initial_symbols(std::string_view word, std::vector<std::int32_t>& ids) const {
  bool after_unknown = false;
  while (!word.empty()) {
    const auto first = static_cast<std::uint8_t>(word.front());
    const std::size_t length =
        config_.byte_level || first < 0x80 ? 1 : std::max<std::size_t>(utf8_length(word), 1);
    const std::string_view symbol = word.substr(0, length);
    word.remove_prefix(length);
    const std::int32_t id = config_.byte_level ? byte_ids_[first]
                            : length == 1      ? ascii_ids_[first]
                                               : lookup(config_.vocab, symbol);
    const bool unknown = id < 0 && (config_.byte_level || !add_fallback(symbol, ids));
    if (id >= 0) {
      ids.push_back(id);
    } else if (unknown && config_.unknown_id >= 0 && !(after_unknown && config_.fuse_unknown)) {
      ids.push_back(config_.unknown_id);
    }
    after_unknown = unknown;
  }
}

void BpeModel::encode_bytes(std::string_view bytes, std::vector<std::int32_t>& ids) const {
  if (config_.byte_level) return encode_word(bytes, ids);
  bool after_unknown = false;
  for (const char& byte : bytes) {
    const bool unknown = !add_fallback({&byte, 1}, ids);
    if (unknown && config_.unknown_id >= 0 && !(after_unknown && config_.fuse_unknown)) {
      ids.push_back(config_.unknown_id);
    }
    after_unknown = unknown;
  }
}

void BpeModel::merge(std::vector<std::int32_t>& symbols) const {
  auto& next = scratch().next;
  auto& previous = scratch().previous;
  auto& heap = scratch().heap;
  const auto count = narrow<std::int32_t>(symbols.size());
  next.resize(symbols.size());
  previous.resize(symbols.size());
  heap.clear();
  const auto at = [](std::int32_t index) { return static_cast<std::size_t>(index); };
  const auto consider = [&](std::int32_t left) {
    const std::int32_t right = next[at(left)];
    if (right >= count) return;
    if (const Merge* found = find_merge(symbols[at(left)], symbols[at(right)])) {
      heap.push_back({found->rank, left, symbols[at(left)], symbols[at(right)], found->result});
      std::push_heap(heap.begin(), heap.end(), merges_later);
    }
  };
  for (std::int32_t i = 0; i < count; ++i) {
    next[at(i)] = i + 1;
    previous[at(i)] = i - 1;
  }
  for (std::int32_t i = 0; i + 1 < count; ++i) consider(i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), merges_later);
    const Candidate best = heap.back();
    heap.pop_back();
    const std::int32_t right = next[at(best.left)];
    const bool stale = symbols[at(best.left)] != best.left_id || right >= count ||
                       symbols[at(right)] != best.right_id;
    if (stale) continue;
    symbols[at(best.left)] = best.result;
    symbols[at(right)] = kMerged;
    next[at(best.left)] = next[at(right)];
    if (next[at(right)] < count) previous[at(next[at(right)])] = best.left;
    consider(best.left);
    if (previous[at(best.left)] >= 0) consider(previous[at(best.left)]);
  }
  std::erase(symbols, kMerged);
}

}  // namespace thimble
