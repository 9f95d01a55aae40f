// Writes a token file chunk by chunk so that a killed run can go on where it stopped.
//
// Tokens go to `<path>.partial`; after each chunk an entry goes to `<path>.partial.journal`: a hash
// of the chunk's input, its document records and checksums. A run that starts again finds both,
// offers the hash of each chunk, and skips those the journal holds. finish() builds index and
// header, renames the file into place and removes the journal. `<path>.lock` keeps two processes
// from writing one file and stays behind.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "core/io/file.h"
#include "data/token_file.h"

namespace thimble {

/// A document, or a piece of one, inside a chunk.
struct DocumentRecord {
  std::int64_t tokens = 0;  // 0: left out as empty
  std::int64_t prompt_tokens = 0;
  std::int64_t special_tokens = 0;   // that the text spelled
  std::vector<TokenRange> ranges{};  // trained, of a chat
  std::uint64_t hash = 0;            // of the text
  bool begins = true;                // false: continues the document before
  bool ends_turn = false;            // a chat: a turn that is trained on ends in a special token
};

struct TokenChunk {
  std::uint64_t input_hash = 0;
  std::vector<std::int32_t> tokens;
  std::vector<DocumentRecord> records;
  std::int64_t text_bytes = 0;
};

struct TokenWriterOptions {
  std::uint64_t tokenizer_digest = 0;
  std::int64_t vocab_size = 0;
  bool has_prompts = false;
  bool is_chat = false;
  std::uint64_t fingerprint = 0;  // of everything but the input that the tokens depend on
};

class TokenWriter {
 public:
  /// Opens or resumes. Throws UserError if another process writes `path`, SystemError for I/O
  /// failures.
  TokenWriter(const std::filesystem::path& path, const TokenWriterOptions& options);

  /// True if the journal holds the next chunk with this input; the chunk is then done. After the
  /// first false the rest of the journal is dropped, and every further chunk must be appended.
  bool skip_if_done(std::uint64_t input_hash);

  /// Appends the next chunk. Failpoint "tokenize.chunk" stands between its tokens and its journal
  /// entry.
  void append(const TokenChunk& chunk);

  /// Completes the file and puts it into place. `bad_lines`: how many lines of the input were
  /// skipped. Throws UserError if there is no document.
  void finish(std::int64_t bad_lines = 0);

  std::int64_t num_tokens() const { return num_tokens_; }
  std::int64_t num_records() const { return num_records_; }

 private:
  struct Entry {
    std::uint64_t input_hash = 0;
    std::int64_t num_tokens = 0;
    std::int64_t num_records = 0;
    std::int64_t journal_end = 0;
  };
  struct Index;

  void load_journal();
  bool load_entry(std::span<const std::byte> journal, std::span<const std::byte> partial);
  void start_writing();
  Index read_index();
  void write_index(const Index& index, std::int64_t bad_lines) const;
  std::vector<std::uint32_t> block_crcs() const;
  std::int64_t token_end() const;

  std::filesystem::path path_;
  std::filesystem::path partial_path_;
  std::filesystem::path journal_path_;
  TokenWriterOptions options_;
  LockFile lock_;
  std::optional<File> partial_;  // open once writing has begun
  std::optional<File> journal_;
  std::vector<Entry> entries_;  // those found on disk that may still be skipped
  std::size_t next_entry_ = 0;
  std::int64_t num_tokens_ = 0;
  std::int64_t num_records_ = 0;
  std::int64_t journal_bytes_ = 0;
};

}  // namespace thimble
