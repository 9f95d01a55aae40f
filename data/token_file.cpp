#include "data/token_file.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/crc32c.h"
#include "data/content_hash.h"

namespace thimble {
namespace {

std::int64_t file_bytes(const MappedFile& file) {
  return narrow<std::int64_t>(file.bytes().size());
}

template <typename T>
std::span<const T> view_as(std::span<const std::byte> bytes, std::int64_t offset,
                           std::int64_t count) {
  const std::span<const std::byte> part =
      bytes.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(count) * sizeof(T));
  return {reinterpret_cast<const T*>(part.data()), static_cast<std::size_t>(count)};
}

template <typename T>
void widen(std::span<const std::byte> source, std::span<std::int32_t> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    T token{};
    std::memcpy(&token, source.data() + i * sizeof(T), sizeof(T));
    out[i] = static_cast<std::int32_t>(token);
  }
}

template <typename T>
bool all_below(std::span<const std::byte> tokens, std::int64_t vocab_size) {
  bool good = true;
  for (std::size_t i = 0; i + sizeof(T) <= tokens.size(); i += sizeof(T)) {
    T token{};
    std::memcpy(&token, tokens.data() + i, sizeof(T));
    good &= std::int64_t{token} < vocab_size;
  }
  return good;
}

}  // namespace

void TokenFile::throw_damaged(const char* what) const {
  if (!cached_)
    throw_system("{}: damaged token file ({}); delete it and tokenise again", path_.string(), what);
  std::error_code ignored;
  std::filesystem::remove(path_, ignored);
  throw_system("{}: damaged token file ({}); it was removed, the same command makes it anew",
               path_.string(), what);
}

void TokenFile::throw_lost() const {
  throw_damaged("it was cut, or its disk failed, while it was in use");
}

TokenFile::TokenFile(const std::filesystem::path& path)
    : path_(path), file_(path, MappedFile::OnLoss::kNote), stamp_(file_.stamp()) {
  const std::span<const std::byte> bytes = file_.bytes();
  const std::size_t magic_bytes = sizeof header_.magic;
  if (bytes.size() < magic_bytes ||
      std::memcmp(bytes.data(), TokenFileHeader().magic, magic_bytes) != 0) {
    throw_user("{}: not a token file of Thimble; write one with thimble tokenize", path.string());
  }
  if (bytes.size() < sizeof header_) throw_damaged("the header is incomplete");
  std::memcpy(&header_, bytes.data(), sizeof header_);
  check_header();
  map_index();
}

void TokenFile::check_header() const {
  if (header_.version != kTokenFileVersion && header_.version != kChatTokenFileVersion) {
    throw_user(
        "{}: token file of version {}; this program reads versions {} and {}; tokenise again",
        path_.string(), header_.version, kTokenFileVersion, kChatTokenFileVersion);
  }
  const auto covered = file_.bytes().first(offsetof(TokenFileHeader, header_crc));
  if (crc32c(covered) != header_.header_crc) throw_damaged("checksum of the header");
  const std::int64_t size = file_bytes(file_);
  const bool sane =
      header_.vocab_size > 0 && header_.vocab_size <= std::numeric_limits<std::int32_t>::max() &&
      header_.token_bytes == token_bytes_for(header_.vocab_size) && header_.has_prompts <= 2 &&
      (header_.has_prompts == 2) == (header_.version == kChatTokenFileVersion) &&
      (header_.has_prompts == 2 || header_.num_ranges == 0) && header_.num_documents >= 0 &&
      header_.num_documents < size / 8 && header_.num_tokens >= 0 &&
      header_.num_tokens <= size / header_.token_bytes && header_.text_bytes >= 0 &&
      header_.num_special >= 0 && header_.num_bad_lines >= 0;
  if (!sane) throw_damaged("impossible values in the header");
}

void TokenFile::map_index() {
  const std::int64_t token_bytes = header_.num_tokens * header_.token_bytes;
  const std::int64_t documents = header_.num_documents;
  const std::int64_t prompts = header_.has_prompts == 1 ? documents : 0;
  const std::int64_t range_begins = is_chat() ? documents + 1 : 0;
  const std::int64_t ranges = 2 * std::int64_t{header_.num_ranges};
  const std::int64_t blocks = num_blocks();
  const std::int64_t index_offset = round_up(kTokensOffset + token_bytes, 8);
  const std::int64_t index_bytes =
      8 * (documents + 1) + 4 * (prompts + range_begins + ranges + blocks);
  if (header_.index_offset != index_offset || file_bytes(file_) != index_offset + index_bytes) {
    throw_damaged("its size does not fit its header");
  }
  const std::span<const std::byte> bytes = file_.bytes();
  if (crc32c(bytes.subspan(static_cast<std::size_t>(index_offset))) != header_.index_crc) {
    throw_damaged("checksum of the index");
  }
  tokens_ = view_as<std::byte>(bytes, kTokensOffset, token_bytes);
  begins_ = view_as<std::uint64_t>(bytes, index_offset, documents + 1);
  const std::int64_t prompts_offset = index_offset + 8 * (documents + 1);
  prompts_ = view_as<std::uint32_t>(bytes, prompts_offset, prompts);
  range_begins_ = view_as<std::uint32_t>(bytes, prompts_offset, range_begins);
  ranges_ = view_as<std::uint32_t>(bytes, prompts_offset + 4 * range_begins, ranges);
  block_crcs_ =
      view_as<std::uint32_t>(bytes, prompts_offset + 4 * (prompts + range_begins + ranges), blocks);
  block_checked_ = std::make_unique<std::atomic<bool>[]>(static_cast<std::size_t>(blocks));

  const auto last = static_cast<std::size_t>(documents);
  bool good = begins_[0] == 0 && begins_[last] == static_cast<std::uint64_t>(header_.num_tokens);
  for (std::size_t i = 0; i < last && good; ++i) {
    good = begins_[i] < begins_[i + 1] &&
           (prompts_.empty() || prompts_[i] <= begins_[i + 1] - begins_[i]);
  }
  good = good && ranges_are_good();
  if (file_.lost()) throw_lost();
  if (!good) throw_damaged("the index is not in order");
}

bool TokenFile::ranges_are_good() const {
  if (!is_chat()) return true;
  if (range_begins_.front() != 0 || range_begins_.back() != header_.num_ranges) return false;
  for (std::size_t d = 0; d + 1 < range_begins_.size(); ++d) {
    if (range_begins_[d] > range_begins_[d + 1] || range_begins_[d + 1] > header_.num_ranges)
      return false;
    std::uint64_t at = 0;
    for (std::size_t r = range_begins_[d]; r < range_begins_[d + 1]; ++r) {
      if (ranges_[2 * r] < at || ranges_[2 * r + 1] <= ranges_[2 * r]) return false;
      at = ranges_[2 * r + 1];
    }
    if (at > begins_[d + 1] - begins_[d]) return false;
  }
  return true;
}

TokenRange TokenFile::stored_ranges(std::int64_t document) const {
  const auto d = static_cast<std::size_t>(document);
  const TokenRange found{range_begins_[d], range_begins_[d + 1]};
  if (file_.lost()) throw_lost();
  return found;
}

TokenRange TokenFile::stored_range(std::int64_t index) const {
  const auto r = static_cast<std::size_t>(index);
  const TokenRange range{ranges_[2 * r], ranges_[2 * r + 1]};
  if (file_.lost()) throw_lost();
  return range;
}

std::int64_t TokenFile::trained_tokens(std::int64_t document, std::int64_t length, bool all) const {
  std::int64_t count = 0;
  for_each_trained(document, all, [&](TokenRange range) {
    count += std::max<std::int64_t>(
        0, std::min(range.end, length) - std::max<std::int64_t>(range.begin, 1));
  });
  return count;
}

std::int64_t TokenFile::num_blocks() const {
  return ceil_div(header_.num_tokens * header_.token_bytes, kTokenBlockBytes);
}

void TokenFile::check_unchanged() const {
  const MappedFile::Stamp now = file_.stamp();
  const std::lock_guard lock(stamp_mutex_);
  if (now != stamp_) {
    const auto index = file_.bytes().subspan(static_cast<std::size_t>(header_.index_offset));
    if (now.bytes < file_bytes(file_)) throw_lost();
    if (crc32c(index) != header_.index_crc) throw_damaged("checksum of the index");
    for (std::int64_t block = 0; block < num_blocks(); ++block)
      block_checked_[static_cast<std::size_t>(block)].store(false, std::memory_order_release);
    stamp_ = now;
  }
  if (file_.lost()) throw_lost();
}

void TokenFile::check_block(std::int64_t block) const {
  const auto index = static_cast<std::size_t>(block);
  const std::size_t begin = index * static_cast<std::size_t>(kTokenBlockBytes);
  const std::span<const std::byte> bytes =
      tokens_.subspan(begin, std::min<std::size_t>(kTokenBlockBytes, tokens_.size() - begin));
  if (crc32c(bytes) != block_crcs_[index]) throw_damaged("checksum of its tokens");
  const bool in_vocabulary = header_.token_bytes == 2
                                 ? all_below<std::uint16_t>(bytes, header_.vocab_size)
                                 : all_below<std::uint32_t>(bytes, header_.vocab_size);
  if (!in_vocabulary) throw_damaged("a token id outside its vocabulary");
  block_checked_[index].store(true, std::memory_order_release);
}

void TokenFile::check_blocks(std::int64_t begin_byte, std::int64_t end_byte) const {
  for (std::int64_t block = begin_byte / kTokenBlockBytes; block * kTokenBlockBytes < end_byte;
       ++block) {
    // Two threads may check one block at once; both find the same.
    if (!block_checked_[static_cast<std::size_t>(block)].load(std::memory_order_acquire)) {
      check_block(block);
    }
  }
}

void TokenFile::copy_tokens(std::int64_t begin, std::span<std::int32_t> out) const {
  const auto count = static_cast<std::int64_t>(out.size());
  TH_CHECK(begin >= 0 && count <= num_tokens() - begin, "tokens outside the file");
  if (count == 0) return;
  check_unchanged();
  const std::int64_t width = header_.token_bytes;
  check_blocks(begin * width, (begin + count) * width);
  const auto source = tokens_.subspan(static_cast<std::size_t>(begin * width));
  if (width == 2) {
    widen<std::uint16_t>(source, out);
  } else {
    widen<std::uint32_t>(source, out);
  }
  if (file_.lost()) throw_lost();
}

std::string TokenFile::content_digest() const {
  ContentHash hash;
  hash.add(file_.bytes().first(sizeof header_));
  hash.add(file_.bytes().subspan(static_cast<std::size_t>(header_.index_offset)));
  return hash.hex();
}

void TokenFile::check_tokenizer(std::uint64_t digest, const std::string& tokenizer_name) const {
  if (digest == header_.tokenizer_digest) return;
  throw_user(
      "{}: written with another tokenizer (digest {:016x}) than '{}' (digest {:016x}); "
      "tokenise the text again",
      path_.string(), header_.tokenizer_digest, tokenizer_name, digest);
}

}  // namespace thimble
