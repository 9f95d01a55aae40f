#include "data/token_writer.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>

#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/base/numeric.h"
#include "core/base/random.h"
#include "core/io/crc32c.h"

namespace thimble {
namespace {

struct JournalHeader {
  std::uint64_t magic = 0x324c4e52554f4a54ull;
  std::uint64_t fingerprint = 0;
};

struct JournalEntry {
  std::uint64_t input_hash = 0;
  std::int64_t num_tokens = 0;
  std::int64_t text_bytes = 0;
  std::int64_t num_records = 0;
  std::int64_t num_ranges = 0;
  std::uint32_t tokens_crc = 0;
  std::uint32_t entry_crc = 0;  // of the fields before it, of the records and of their ranges
};

struct StoredRecord {
  std::uint64_t hash = 0;
  std::int64_t tokens = 0;
  std::uint32_t prompt_tokens = 0;
  std::uint32_t begins = 0;
  std::int64_t special_tokens = 0;
  std::uint64_t num_ranges = 0;
};

/// A trained range, as stored.
struct StoredRange {
  std::uint32_t begin = 0, end = 0;
};

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

template <typename T>
T read_value(std::span<const std::byte> bytes, std::int64_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

std::uint32_t entry_checksum(const JournalEntry& entry, std::span<const std::byte> records) {
  return crc32c(records, crc32c(bytes_of(entry).first(offsetof(JournalEntry, entry_crc))));
}

std::vector<std::byte> pack_tokens(std::span<const std::int32_t> tokens, std::int64_t width) {
  const auto step = static_cast<std::size_t>(width);
  std::vector<std::byte> bytes(tokens.size() * step);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::memcpy(bytes.data() + i * step, &tokens[i],
                step);  // little-endian: the low bytes come first
  }
  return bytes;
}

bool file_exists(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored);
}

std::int64_t count_duplicates(std::vector<std::uint64_t> hashes) {
  std::sort(hashes.begin(), hashes.end());
  std::int64_t count = 0;
  for (std::size_t i = 1; i < hashes.size(); ++i) count += hashes[i] == hashes[i - 1] ? 1 : 0;
  return count;
}

}  // namespace

struct TokenWriter::Index {
  std::vector<std::uint64_t> begins;
  std::vector<std::uint32_t> prompts;
  std::vector<std::uint32_t> range_begins{};
  std::vector<StoredRange> ranges{};
  std::vector<std::uint64_t> hashes;
  std::int64_t text_bytes = 0;
  std::int64_t num_empty = 0;
  std::int64_t num_special = 0;
};

TokenWriter::TokenWriter(const std::filesystem::path& path, const TokenWriterOptions& options)
    : path_(path),
      partial_path_(path.string() + ".partial"),
      journal_path_(path.string() + ".partial.journal"),
      options_(options),
      lock_(path.string() + ".lock") {
  TH_CHECK(options.vocab_size > 0, "a vocabulary is needed");
  load_journal();
}

std::int64_t TokenWriter::token_end() const {
  return kTokensOffset + num_tokens_ * token_bytes_for(options_.vocab_size);
}

void TokenWriter::load_journal() {
  journal_bytes_ = sizeof(JournalHeader);
  if (!file_exists(partial_path_) || !file_exists(journal_path_)) return;
  const MappedFile journal(journal_path_);
  const MappedFile partial(partial_path_);
  if (journal.bytes().size() < sizeof(JournalHeader)) return;
  const auto header = read_value<JournalHeader>(journal.bytes(), 0);
  if (header.magic != JournalHeader().magic || header.fingerprint != options_.fingerprint) return;
  while (load_entry(journal.bytes(), partial.bytes())) {
  }
  // What was counted here is what may be skipped; counting starts again as chunks are offered.
  journal_bytes_ = sizeof(JournalHeader);
  num_tokens_ = 0;
  num_records_ = 0;
}

bool TokenWriter::load_entry(std::span<const std::byte> journal,
                             std::span<const std::byte> partial) {
  const auto journal_size = static_cast<std::int64_t>(journal.size());
  const std::int64_t records_at = journal_bytes_ + static_cast<std::int64_t>(sizeof(JournalEntry));
  if (records_at > journal_size) return false;
  const auto entry = read_value<JournalEntry>(journal, journal_bytes_);
  constexpr auto kRecordBytes = static_cast<std::int64_t>(sizeof(StoredRecord));
  if (entry.num_records < 0 || entry.num_records > (journal_size - records_at) / kRecordBytes) {
    return false;
  }
  constexpr auto kRangeBytes = static_cast<std::int64_t>(sizeof(StoredRange));
  const std::int64_t left_for_ranges = journal_size - records_at - entry.num_records * kRecordBytes;
  if (entry.num_ranges < 0 || entry.num_ranges > left_for_ranges / kRangeBytes) return false;
  const std::int64_t records_bytes =
      entry.num_records * kRecordBytes + entry.num_ranges * kRangeBytes;
  const auto records = journal.subspan(static_cast<std::size_t>(records_at),
                                       static_cast<std::size_t>(records_bytes));
  if (entry_checksum(entry, records) != entry.entry_crc) return false;

  const std::int64_t width = token_bytes_for(options_.vocab_size);
  const std::int64_t left = static_cast<std::int64_t>(partial.size()) - token_end();
  if (entry.num_tokens < 0 || left < 0 || entry.num_tokens > left / width) return false;
  const auto tokens = partial.subspan(static_cast<std::size_t>(token_end()),
                                      static_cast<std::size_t>(entry.num_tokens * width));
  if (crc32c(tokens) != entry.tokens_crc) return false;

  num_tokens_ += entry.num_tokens;
  journal_bytes_ = records_at + records_bytes;
  entries_.push_back({entry.input_hash, entry.num_tokens, entry.num_records, journal_bytes_});
  return true;
}

bool TokenWriter::skip_if_done(std::uint64_t input_hash) {
  if (partial_.has_value() || next_entry_ == entries_.size() ||
      entries_[next_entry_].input_hash != input_hash) {
    if (!partial_.has_value()) start_writing();
    return false;
  }
  const Entry& entry = entries_[next_entry_++];
  num_tokens_ += entry.num_tokens;
  num_records_ += entry.num_records;
  journal_bytes_ = entry.journal_end;
  return true;
}

/// Cuts both files behind the chunks that were skipped and opens them for appending.
void TokenWriter::start_writing() {
  const bool fresh = next_entry_ == 0;
  partial_ = fresh ? File::create(partial_path_) : File::open_read_write(partial_path_);
  journal_ = fresh ? File::create(journal_path_) : File::open_read_write(journal_path_);
  if (fresh) {
    const JournalHeader header{JournalHeader().magic, options_.fingerprint};
    journal_->write_at(0, bytes_of(header));
  }
  std::filesystem::resize_file(partial_path_, static_cast<std::uintmax_t>(token_end()));
  std::filesystem::resize_file(journal_path_, static_cast<std::uintmax_t>(journal_bytes_));
}

void TokenWriter::append(const TokenChunk& chunk) {
  TH_CHECK(partial_.has_value(), "append needs a skip_if_done that returned false");
  const std::vector<std::byte> tokens =
      pack_tokens(chunk.tokens, token_bytes_for(options_.vocab_size));
  std::vector<StoredRecord> records;
  std::vector<StoredRange> ranges;
  for (const DocumentRecord& record : chunk.records) {
    records.push_back({record.hash, record.tokens, narrow<std::uint32_t>(record.prompt_tokens),
                       record.begins ? 1u : 0u, record.special_tokens, record.ranges.size()});
    for (const TokenRange& range : record.ranges)
      ranges.push_back({narrow<std::uint32_t>(range.begin), narrow<std::uint32_t>(range.end)});
  }
  JournalEntry entry{chunk.input_hash,
                     narrow<std::int64_t>(chunk.tokens.size()),
                     chunk.text_bytes,
                     narrow<std::int64_t>(records.size()),
                     narrow<std::int64_t>(ranges.size()),
                     crc32c(tokens),
                     0};
  const auto range_bytes = std::as_bytes(std::span<const StoredRange>(ranges));
  std::vector<std::byte> record_bytes(records.size() * sizeof(StoredRecord));
  if (!records.empty()) std::memcpy(record_bytes.data(), records.data(), record_bytes.size());
  record_bytes.insert(record_bytes.end(), range_bytes.begin(), range_bytes.end());
  entry.entry_crc = entry_checksum(entry, record_bytes);

  partial_->write_at(token_end(), tokens);
  failpoint("tokenize.chunk");
  journal_->write_at(journal_bytes_, bytes_of(entry));
  journal_bytes_ += static_cast<std::int64_t>(sizeof entry);
  journal_->write_at(journal_bytes_, record_bytes);
  journal_bytes_ += static_cast<std::int64_t>(record_bytes.size());
  num_tokens_ += entry.num_tokens;
  num_records_ += entry.num_records;
}

TokenWriter::Index TokenWriter::read_index() {
  const MappedFile journal(journal_path_);
  Index index;
  std::uint64_t token_at = 0;
  auto at = static_cast<std::int64_t>(sizeof(JournalHeader));
  while (at < journal_bytes_) {
    const auto entry = read_value<JournalEntry>(journal.bytes(), at);
    at += static_cast<std::int64_t>(sizeof entry);
    index.text_bytes += entry.text_bytes;
    std::int64_t range_at =
        at + entry.num_records * static_cast<std::int64_t>(sizeof(StoredRecord));
    const auto add_ranges = [&](std::uint64_t count) {
      index.range_begins.push_back(narrow<std::uint32_t>(index.ranges.size()));
      for (std::uint64_t i = 0; i < count;
           ++i, range_at += static_cast<std::int64_t>(sizeof(StoredRange)))
        index.ranges.push_back(read_value<StoredRange>(journal.bytes(), range_at));
    };
    for (std::int64_t i = 0; i < entry.num_records; ++i) {
      const auto record = read_value<StoredRecord>(journal.bytes(), at);
      at += static_cast<std::int64_t>(sizeof record);
      index.num_special += record.special_tokens;
      if (record.tokens == 0) {
        ++index.num_empty;
        continue;
      }
      if (record.begins != 0) {
        index.begins.push_back(token_at);
        index.hashes.push_back(record.hash);
        if (options_.has_prompts && !options_.is_chat)
          index.prompts.push_back(record.prompt_tokens);
        if (options_.is_chat) add_ranges(record.num_ranges);
      } else {
        index.hashes.back() = mix64(index.hashes.back(), record.hash);
      }
      token_at += static_cast<std::uint64_t>(record.tokens);
    }
    TH_CHECK_EQ(range_at, at + entry.num_ranges * static_cast<std::int64_t>(sizeof(StoredRange)));
    at = range_at;
  }
  if (options_.is_chat) index.range_begins.push_back(narrow<std::uint32_t>(index.ranges.size()));
  TH_CHECK_EQ(token_at, static_cast<std::uint64_t>(num_tokens_));
  index.begins.push_back(token_at);
  return index;
}

std::vector<std::uint32_t> TokenWriter::block_crcs() const {
  const MappedFile partial(partial_path_);
  auto tokens = partial.bytes().subspan(static_cast<std::size_t>(kTokensOffset));
  std::vector<std::uint32_t> crcs;
  while (!tokens.empty()) {
    const std::size_t size = std::min<std::size_t>(kTokenBlockBytes, tokens.size());
    crcs.push_back(crc32c(tokens.first(size)));
    tokens = tokens.subspan(size);
  }
  return crcs;
}

void TokenWriter::write_index(const Index& index, std::int64_t bad_lines) const {
  const std::vector<std::uint32_t> crcs = block_crcs();
  TokenFileHeader header;
  header.token_bytes = narrow<std::uint32_t>(token_bytes_for(options_.vocab_size));
  header.tokenizer_digest = options_.tokenizer_digest;
  header.vocab_size = options_.vocab_size;
  header.version = options_.is_chat ? kChatTokenFileVersion : kTokenFileVersion;
  header.has_prompts = options_.is_chat ? 2 : options_.has_prompts ? 1 : 0;
  header.num_ranges = narrow<std::uint32_t>(index.ranges.size());
  header.num_documents = narrow<std::int64_t>(index.hashes.size());
  header.num_tokens = num_tokens_;
  header.text_bytes = index.text_bytes;
  header.num_empty = index.num_empty;
  header.num_duplicates = count_duplicates(index.hashes);
  header.num_special = index.num_special;
  header.num_bad_lines = bad_lines;
  header.index_offset = round_up(token_end(), 8);

  std::int64_t at = header.index_offset;
  for (const auto part :
       {std::as_bytes(std::span(index.begins)), std::as_bytes(std::span(index.prompts)),
        std::as_bytes(std::span(index.range_begins)), std::as_bytes(std::span(index.ranges)),
        std::as_bytes(std::span(crcs))}) {
    partial_->write_at(at, part);
    header.index_crc = crc32c(part, header.index_crc);
    at += static_cast<std::int64_t>(part.size());
  }
  header.header_crc = crc32c(bytes_of(header).first(offsetof(TokenFileHeader, header_crc)));
  partial_->write_at(0, bytes_of(header));
}

void TokenWriter::finish(std::int64_t bad_lines) {
  if (!partial_.has_value()) start_writing();
  const Index index = read_index();
  if (index.hashes.empty()) {
    std::error_code ignored;
    std::filesystem::remove(partial_path_, ignored);
    std::filesystem::remove(journal_path_, ignored);
    throw_user("{}: the data holds no document with text", path_.string());
  }
  write_index(index, bad_lines);
  partial_->data_sync();
  failpoint("tokenize.rename");
  rename_path(partial_path_, path_);
  sync_directory(path_.has_parent_path() ? path_.parent_path() : std::filesystem::path("."));
  std::error_code
      ignored;  // a journal left behind is harmless: without its .partial it is not used
  std::filesystem::remove(journal_path_, ignored);
}

}  // namespace thimble
