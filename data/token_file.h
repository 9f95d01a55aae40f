// A tokenised corpus on disk, mapped into memory: token ids of all documents one after another, and
// an index.
//
// Layout (little-endian): TokenFileHeader, padding up to kTokensOffset, the tokens (u16 if the
// vocabulary has at most 65536 ids, else u32), padding to 8 bytes, then the index: document_begin
// u64[documents + 1], prompt_tokens u32[documents] (only with prompts), block_crc u32[ceil(token
// bytes / kTokenBlockBytes)]. The file ends there. The first prompt_tokens tokens of a document
// carry no loss. For chats (has_prompts 2) range_begin u32[documents + 1] and the trained ranges of
// tokens u32[ranges][2] stand in the place of prompt_tokens; what lies between carries no loss.
//
// A file is untrusted: sizes, order of the index and its checksum are checked when it is opened;
// each block of tokens is checked (checksum, ids within the vocabulary) before its first token is
// handed out. Whoever writes to a file in use, or cuts it, is noticed too: everything is checked
// again.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "core/io/file.h"

namespace thimble {

inline constexpr std::int64_t kTokensOffset = 4096;
inline constexpr std::int64_t kTokenBlockBytes = 64 * 1024;
inline constexpr std::uint32_t kTokenFileVersion = 2;
inline constexpr std::uint32_t kChatTokenFileVersion = 3;  // of files of chats

/// The first bytes of a token file, as stored.
struct TokenFileHeader {
  char magic[8] = {'T', 'H', 'T', 'O', 'K', 'E', 'N', 'S'};
  std::uint32_t version = kTokenFileVersion;
  std::uint32_t token_bytes = 0;  // 2 or 4
  std::uint64_t tokenizer_digest = 0;
  std::int64_t vocab_size = 0;
  std::uint32_t has_prompts = 0;  // 2: chats; 1: samples of prompt and completion; 0: text
  std::uint32_t index_crc = 0;
  std::int64_t num_documents = 0;
  std::int64_t num_tokens = 0;
  std::int64_t text_bytes = 0;      // of the documents before tokenising
  std::int64_t num_empty = 0;       // documents left out because they hold no text
  std::int64_t num_duplicates = 0;  // documents whose text stands earlier in the file
  std::int64_t index_offset = 0;
  std::int64_t num_special = 0;    // special tokens that the text itself spelled
  std::int64_t num_bad_lines = 0;  // lines that were skipped because they could not be read
  std::uint32_t num_ranges = 0;    // of chats
  std::uint32_t header_crc = 0;    // CRC32C of the bytes before this field
};
static_assert(sizeof(TokenFileHeader) == 112);

/// Tokens begin .. end of a document.
struct TokenRange {
  std::int64_t begin = 0, end = 0;
  bool operator==(const TokenRange&) const = default;
};

/// Bytes of one token for this vocabulary: 2 or 4.
inline std::int64_t token_bytes_for(std::int64_t vocab_size) {
  return vocab_size <= 65536 ? 2 : 4;
}

class TokenFile {
 public:
  /// Throws UserError if it is not a token file of this version, SystemError if it is damaged.
  explicit TokenFile(const std::filesystem::path& path);

  /// Says that the file is a copy of a cache: found to be damaged it is removed, so that the next
  /// run makes it anew.
  void set_cached() { cached_ = true; }

  const std::filesystem::path& path() const { return path_; }
  const TokenFileHeader& header() const { return header_; }
  std::int64_t num_documents() const { return header_.num_documents; }
  std::int64_t num_tokens() const { return header_.num_tokens; }
  /// Whether it holds samples (of prompt and completion, or chats) and not text.
  bool has_prompts() const { return header_.has_prompts != 0; }
  bool is_chat() const { return header_.has_prompts == 2; }

  /// Position of the document's first token in the file; document_begin(num_documents()) ==
  /// num_tokens().
  std::int64_t document_begin(std::int64_t document) const {
    const std::uint64_t begin = begins_[static_cast<std::size_t>(document)];
    if (file_.lost()) throw_lost();
    return static_cast<std::int64_t>(begin);
  }
  /// Tokens of the document, BOS and EOS included; at least 1.
  std::int64_t document_tokens(std::int64_t document) const {
    return document_begin(document + 1) - document_begin(document);
  }
  /// Tokens at the start of the document that belong to the prompt; 0 for text and chats.
  std::int64_t prompt_tokens(std::int64_t document) const {
    const std::uint32_t count = prompts_.empty() ? 0 : prompts_[static_cast<std::size_t>(document)];
    if (file_.lost()) throw_lost();
    return count;
  }

  /// The ranges of the document that are trained on, in order: all of it if `all`, else what
  /// follows its prompt, or the turns of a chat.
  template <typename Use>
  void for_each_trained(std::int64_t document, bool all, const Use& use) const {
    const std::int64_t tokens = document_tokens(document);
    if (all || !is_chat()) return use(TokenRange{all ? 0 : prompt_tokens(document), tokens});
    const auto [begin, end] = stored_ranges(document);
    for (std::int64_t i = begin; i < end; ++i) use(stored_range(i));
  }
  /// Tokens of the first `length` of the document that are targets.
  std::int64_t trained_tokens(std::int64_t document, std::int64_t length, bool all) const;

  /// Throws SystemError if the file has been cut or its index damaged since it was opened; if it
  /// has been written to, its blocks are checked again. Called before a sequence is taken from it;
  /// safe from several threads.
  void check_unchanged() const;

  /// Copies tokens begin .. begin + out.size() of the file; safe from several threads.
  /// Throws SystemError if their block is damaged.
  void copy_tokens(std::int64_t begin, std::span<std::int32_t> out) const;

  /// Hash of tokenizer, documents and tokens (these through the checksums of their blocks), as 32
  /// digits. Files with equal digests train alike.
  std::string content_digest() const;

  /// Throws UserError unless the file was made with a tokenizer of this digest.
  void check_tokenizer(std::uint64_t digest, const std::string& tokenizer_name) const;

 private:
  void check_header() const;
  void map_index();
  void check_blocks(std::int64_t begin_byte, std::int64_t end_byte) const;
  void check_block(std::int64_t block) const;
  std::int64_t num_blocks() const;
  bool ranges_are_good() const;
  TokenRange stored_ranges(std::int64_t document) const;
  TokenRange stored_range(std::int64_t index) const;
  [[noreturn]] void throw_damaged(const char* what) const;
  [[noreturn]] void throw_lost() const;

  std::filesystem::path path_;
  MappedFile file_;
  TokenFileHeader header_;
  std::span<const std::byte> tokens_;
  std::span<const std::uint64_t> begins_;
  std::span<const std::uint32_t> prompts_;
  std::span<const std::uint32_t> range_begins_, ranges_;  // of chats
  std::span<const std::uint32_t> block_crcs_;
  std::unique_ptr<std::atomic<bool>[]> block_checked_;
  bool cached_ = false;
  mutable std::mutex stamp_mutex_;
  mutable MappedFile::Stamp stamp_;  // at the last check
};

}  // namespace thimble
