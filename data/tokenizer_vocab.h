// Collects the vocabulary of a BPE tokenizer from its file, checks it, and assembles the tokenizer;
// plus the file kinds it reads.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer_config.h"
#include "data/tokenizer_pipeline.h"
#include "data/tokenizer_stages.h"

namespace thimble {

/// Entries and added tokens by id, each id used once.
class VocabBuilder {
 public:
  /// `name`: the file, for messages.
  VocabBuilder(std::string name, bool byte_level)
      : name_(std::move(name)), byte_level_(byte_level) {}

  /// Throws: UserError if the id is taken or out of range, or the text is already an entry.
  void add_entry(const std::string& text, std::int64_t id);

  /// An added token may repeat an entry with the same id. Throws: UserError if it contradicts one.
  void add_token(const AddedToken& token);

  /// To be called after the last entry and token. Throws: UserError if the ids are spread too
  /// thinly or there are none.
  void check_density() const;

  /// The id of an entry or added token as spelled in the file.
  std::optional<std::int32_t> id_of(std::string_view text) const;

  std::int32_t max_id() const { return max_id_; }
  const std::vector<AddedToken>& added() const { return added_; }

  /// The vocabulary of the merges: for byte-level models keyed by raw bytes, without entries that
  /// stand for no bytes.
  TextToId model_vocab() const;

  /// The decoded text of every id.
  std::vector<std::string> texts(const DecoderRules& rules) const;

 private:
  void check_length(std::string_view text) const;

  std::string name_;
  bool byte_level_;
  TextToId entries_;
  std::vector<AddedToken> added_;
  TextToId added_ids_;
  std::unordered_map<std::int32_t, std::string> by_id_;
  std::int32_t max_id_ = -1;
};

/// A merge of byte-pair encoding as spelled in a file: both parts, and its rank among the merges.
struct NamedMerge {
  std::string_view left, right;
  std::int32_t rank = 0;
};

/// Adds `merge` to the model. `where` names it in messages. Throws UserError if a part or the
/// result is not in the vocabulary.
void add_named_merge(const VocabBuilder& vocab, const NamedMerge& merge, std::string_view where,
                     BpeModel& model);

/// A tokenizer.json in memory with what stands beside it.
std::unique_ptr<Tokenizer> make_json_tokenizer(std::string_view text, const std::string& name,
                                               const TokenizerConfig& config);

/// GPT-2's vocab.json and merges.txt in memory.
std::unique_ptr<Tokenizer> make_gpt2_tokenizer(std::string_view vocab, std::string_view merges,
                                               const std::string& name,
                                               const std::string& merges_name,
                                               const TokenizerConfig& config);

/// llama2.c's tokenizer.bin in memory: int32 longest token, then per token float32 score, int32
/// length, bytes.
std::unique_ptr<Tokenizer> make_llama2c_tokenizer(std::string_view bytes, const std::string& name);

/// A SentencePiece model in memory.
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(std::string_view bytes,
                                                        const std::string& name,
                                                        const TokenizerConfig& config);

/// One id per byte; 256 separates documents.
std::unique_ptr<Tokenizer> make_byte_tokenizer();

}  // namespace thimble
