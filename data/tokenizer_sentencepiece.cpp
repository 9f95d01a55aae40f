// SentencePiece models, encoded by the library; special tokens, invalid bytes and caching are
// handled here.
#include <sentencepiece_processor.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "data/tokenizer_cache.h"
#include "data/tokenizer_sentencepiece_proto.h"
#include "data/tokenizer_vocab.h"
#include "data/utf8.h"

namespace thimble {
namespace {

std::unique_ptr<sentencepiece::SentencePieceProcessor> load_processor(std::string_view bytes,
                                                                      const std::string& name) {
  auto processor = std::make_unique<sentencepiece::SentencePieceProcessor>();
  const auto status = processor->LoadFromSerializedProto({bytes.data(), bytes.size()});
  if (!status.ok()) throw_user("{}: not a usable SentencePiece model: {}", name, status.ToString());
  return processor;
}

std::optional<std::int32_t> known_id(int id) {
  return id < 0 ? std::nullopt : std::optional<std::int32_t>(id);
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string_view bytes, const std::string& name,
                         const TokenizerConfig& config);

  void encode_to(std::string_view text, EncodeOptions options,
                 std::vector<std::int32_t>& ids) const override;

 private:
  using Processor = sentencepiece::SentencePieceProcessor;

  std::vector<AddedToken> read_pieces(const TokenizerConfig& config);
  void encode_valid(std::string_view text, bool at_start, std::vector<std::int32_t>& ids) const;
  void encode_word(std::string_view word, bool at_start, std::vector<std::int32_t>& ids) const;
  void encode_byte(char byte, std::vector<std::int32_t>& ids) const;

  std::unique_ptr<Processor> at_start_;  // puts a dummy space in front of the text
  std::unique_ptr<Processor> inside_;    // does not
  AddedTokenFinder added_;
  std::uint32_t start_owner_ = WordCache::new_owner();
  std::uint32_t inside_owner_ = WordCache::new_owner();
  bool cut_at_spaces_ = false;
  std::int32_t byte_ids_[256];
};

SentencePieceTokenizer::SentencePieceTokenizer(std::string_view bytes, const std::string& name,
                                               const TokenizerConfig& config) {
  const SentencePieceFacts facts = inspect_sentencepiece(bytes, name);
  at_start_ = load_processor(bytes, name);
  inside_ = load_processor(without_dummy_prefix(bytes), name);
  cut_at_spaces_ = facts.is_bpe && facts.escape_spaces && !facts.remove_extra_spaces &&
                   !facts.space_as_suffix && !facts.has_character_map && !facts.space_inside_piece;
  info_.name = name;
  if (facts.add_dummy_prefix) {
    start_strip_ = ' ';
    start_strip_count_ = 1;
  }
  const std::vector<AddedToken> added = read_pieces(config);
  for (const AddedToken& token : added) added_.add(token, token.text);
  added_.finish();
  const auto id_of = [&](std::string_view text) -> std::optional<std::int32_t> {
    for (const AddedToken& token : added) {
      if (token.text == text) return token.id;
    }
    const int id = at_start_->PieceToId({text.data(), text.size()});
    return at_start_->IdToPiece(id) == text ? known_id(id) : std::nullopt;
  };
  const auto bos = known_id(at_start_->bos_id());
  resolve_special_tokens(config, {bos, known_id(at_start_->eos_id()), bos.has_value(), false},
                         id_of, info_);
  info_.digest = tokenizer_digest(info_, {bytes});
}

/// Records the text of every id; returns the tokens that are found by their spelling.
std::vector<AddedToken> SentencePieceTokenizer::read_pieces(const TokenizerConfig& config) {
  std::vector<AddedToken> added;
  std::vector<std::string> texts(static_cast<std::size_t>(at_start_->GetPieceSize()));
  std::vector<std::int32_t> special;
  DecoderRules rules;
  rules.byte_fallback = true;
  rules.replacements.emplace_back(kMetaspace, " ");
  std::fill(std::begin(byte_ids_), std::end(byte_ids_), -1);
  for (std::int32_t id = 0; id < at_start_->GetPieceSize(); ++id) {
    const std::string& piece = at_start_->IdToPiece(id);
    std::string& text = texts[static_cast<std::size_t>(id)];
    if (at_start_->IsControl(id) || at_start_->IsUnknown(id)) {
      added.push_back({.text = piece, .id = id, .special = true});
      special.push_back(id);
      text = piece;
      continue;
    }
    text = rules.text_of(piece);
    if (at_start_->IsByte(id) && text.size() == 1) {
      byte_ids_[static_cast<std::uint8_t>(text.front())] = id;
    }
  }
  for (const AddedToken& token : config.added) {
    const auto id = static_cast<std::size_t>(token.id);
    if (token.text.empty()) continue;
    if (id > texts.size() + config.added.size()) {
      throw_user("{}: added token id {} is too large for a vocabulary of {} pieces", info_.name, id,
                 texts.size());
    }
    if (id >= texts.size()) texts.resize(id + 1);
    texts[id] = token.text;
    added.push_back(token);
    if (token.special) special.push_back(token.id);
  }
  set_tokens(texts, special);
  return added;
}

void SentencePieceTokenizer::encode_to(std::string_view text, EncodeOptions options,
                                       std::vector<std::int32_t>& ids) const {
  bool at_start = !options.continues;
  while (!text.empty()) {
    const std::size_t valid = first_invalid_utf8(text);
    for (const auto& part : added_.split(text.substr(0, valid), options.parse_special)) {
      if (part.id >= 0) {
        ids.push_back(part.id);
      } else {
        encode_valid(part.text, at_start, ids);
      }
      at_start = false;
    }
    text.remove_prefix(valid);
    while (!text.empty() && utf8_length(text) == 0) {
      encode_byte(text.front(), ids);
      text.remove_prefix(1);
      at_start = false;
    }
  }
}

void SentencePieceTokenizer::encode_byte(char byte, std::vector<std::int32_t>& ids) const {
  const std::int32_t id = byte_ids_[static_cast<std::uint8_t>(byte)];
  const std::int32_t unknown = at_start_->unk_id();
  if (id >= 0 || unknown >= 0) ids.push_back(id >= 0 ? id : unknown);
}

void SentencePieceTokenizer::encode_valid(std::string_view text, bool at_start,
                                          std::vector<std::int32_t>& ids) const {
  if (!cut_at_spaces_) return encode_word(text, at_start, ids);
  const auto space_length = [&](std::size_t at) {
    if (text[at] == ' ') return std::size_t{1};
    return text.substr(at).starts_with(kMetaspace) ? kMetaspace.size() : 0;
  };
  while (!text.empty()) {
    std::size_t end = 0;
    while (end < text.size() && space_length(end) > 0) end += space_length(end);
    while (end < text.size() && space_length(end) == 0) ++end;
    encode_word(text.substr(0, end), at_start, ids);
    at_start = false;
    text.remove_prefix(end);
  }
}

void SentencePieceTokenizer::encode_word(std::string_view word, bool at_start,
                                         std::vector<std::int32_t>& ids) const {
  const std::uint32_t owner = at_start ? start_owner_ : inside_owner_;
  WordCache& cache = WordCache::of_this_thread();
  if (cache.find(owner, word, ids)) return;
  std::vector<int> found;
  const auto status = (at_start ? at_start_ : inside_)->Encode({word.data(), word.size()}, &found);
  if (!status.ok()) throw_user("{}: cannot encode: {}", info_.name, status.ToString());
  cache.insert(owner, word, found);
  ids.insert(ids.end(), found.begin(), found.end());
}

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(std::string_view bytes,
                                                        const std::string& name,
                                                        const TokenizerConfig& config) {
  return std::make_unique<SentencePieceTokenizer>(bytes, name, config);
}

}  // namespace thimble
