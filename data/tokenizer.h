// Text to token ids and back, for every tokenizer a model directory may bring: bytes, byte-level
// BPE, SentencePiece.
//
// Encoding never adds BOS or EOS: the caller does, following add_bos() and add_eos(). Bytes that
// are not UTF-8 are kept (as byte tokens where the vocabulary has them), never an error. All
// members are const and safe to call from many threads at once. Chat templates are not rendered
// here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace thimble {

struct EncodeOptions {
  /// Recognise the spelling of special tokens ("<s>", "<|im_end|>") in the text, as the tokenizers
  /// library does; otherwise it is plain text. Added tokens that are not special are always
  /// recognised.
  bool parse_special = true;
  /// The text goes on from an earlier one: no dummy space is put in front of it.
  bool continues = false;
};

struct DecodeOptions {
  /// Leave special tokens out of the text; otherwise they appear as they are spelled.
  bool skip_special = true;
};

/// What every tokenizer knows beside its vocabulary.
struct TokenizerInfo {
  std::string name;             // the file or directory it was read from, or "byte"
  std::int64_t vocab_size = 0;  // largest id it can emit, plus 1
  std::optional<std::int32_t> bos_id;
  std::optional<std::int32_t> eos_id;
  std::optional<std::int32_t> pad_id;
  bool add_bos = false;      // the model expects BOS before a document
  bool add_eos = false;      // the model expects EOS after a document
  std::uint64_t digest = 0;  // hash of the content: equal digests encode equally
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Token ids of `text`, without BOS and EOS.
  /// Throws: UserError if a pattern of the tokenizer exceeds its matching limits on this text.
  std::vector<std::int32_t> encode(std::string_view text, EncodeOptions options = {}) const;

  /// encode(), appended to `ids`.
  virtual void encode_to(std::string_view text, EncodeOptions options,
                         std::vector<std::int32_t>& ids) const = 0;

  /// The text of `ids`, byte for byte (it may be invalid UTF-8 if the ids are cut inside a
  /// character). The space that SentencePiece-style tokenizers put before a document is removed at
  /// the start and after BOS. Ids that name no token, as those of an embedding that is padded
  /// beyond the vocabulary, give nothing.
  std::string decode(std::span<const std::int32_t> ids, DecodeOptions options = {}) const;

  /// Bytes of one token as decode() would give them in the middle of a text, special tokens as
  /// spelled. Ids that name no token give "".
  std::string_view token_text(std::int32_t id) const;

  /// True for control tokens such as BOS, EOS, padding and chat marks.
  bool is_special(std::int32_t id) const;

  /// Id of the special token spelled exactly `text` (for example a job's eos_token).
  std::optional<std::int32_t> special_id(std::string_view text) const;

  const std::string& name() const { return info_.name; }
  std::int64_t vocab_size() const { return info_.vocab_size; }
  std::optional<std::int32_t> bos_id() const { return info_.bos_id; }
  std::optional<std::int32_t> eos_id() const { return info_.eos_id; }
  std::optional<std::int32_t> pad_id() const { return info_.pad_id; }
  bool add_bos() const { return info_.add_bos; }
  bool add_eos() const { return info_.add_eos; }
  std::uint64_t digest() const { return info_.digest; }

 protected:
  Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  /// Records the decoded bytes of every id and which ids are special; sets vocab_size.
  void set_tokens(std::span<const std::string> texts, std::span<const std::int32_t> special_ids);

  TokenizerInfo info_;
  std::string start_strip_;             // removed once, if present, where a segment boundaries
  std::int64_t start_strip_count_ = 0;  // at most so many times

 private:
  friend class StreamDecoder;
  bool is_known(std::int32_t id) const {
    return id >= 0 && static_cast<std::size_t>(id) < special_.size();
  }
  std::string_view start_text(std::int32_t id) const;

  std::string blob_;
  std::vector<std::uint32_t> offsets_{0};  // token id -> its bytes in blob_
  std::vector<bool> special_;
};

/// Decodes a stream of tokens, holding back the bytes of a character that is not complete yet.
class StreamDecoder {
 public:
  /// `at_start`: the next token starts a document (its dummy space is dropped); false when
  /// continuing a prompt.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool at_start = true)
      : tokenizer_(&tokenizer), at_start_(at_start) {}

  /// The text that token `id` completes; special tokens give "".
  std::string push(std::int32_t id);

  /// What is left: bytes of a character that never became complete.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  bool at_start_;
  std::string pending_;
};

/// Loads a tokenizer. `source` is one of
///   "byte"       one id per byte; id 256 is BOS and EOS, the separator of documents; vocab_size
///   257 a directory  tokenizer.json, else tokenizer.model, else vocab.json with merges.txt, else
///                tokenizer.bin; BOS, EOS and padding as tokenizer_config.json,
///                special_tokens_map.json or config.json say
///   a file       *.json (tokenizer.json), *vocab.json (with *merges.txt beside it), *.model
///                (SentencePiece), *.bin (llama2.c); configuration files beside it are read if it
///                has the usual name
/// A vocab.json is split by the rules of the class that tokenizer_config.json or config.json name,
/// by GPT-2's if they name none.
/// Throws: UserError naming the file, the field and what is allowed, for anything missing,
/// malformed or unsupported.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& source);

/// A tokenizer.json held in memory; `name` stands for the file in messages. Throws: UserError.
std::unique_ptr<Tokenizer> load_tokenizer_json(std::string_view text, const std::string& name);

}  // namespace thimble
