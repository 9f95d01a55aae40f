// llama2.c's tokenizer.bin: SentencePiece pieces with scores, spaces written as spaces, byte tokens
// as "<0xNN>".
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "data/tokenizer_vocab.h"
#include "data/tokenizer_vocabulary.h"

namespace thimble {
namespace {

constexpr std::int64_t kMaxPieceBytes = 1024;
constexpr std::int32_t kUnknownId = 0;
constexpr std::int32_t kBosId = 1;
constexpr std::int32_t kEosId = 2;

struct Piece {
  std::string text;
  float score;
};

template <typename T>
T take(std::string_view& bytes, const std::string& name, std::size_t token) {
  if (bytes.size() < sizeof(T)) throw_user("{}: cut off inside token {}", name, token);
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  bytes.remove_prefix(sizeof(T));
  return value;
}

std::vector<Piece> read_pieces(std::string_view bytes, const std::string& name) {
  const auto longest = take<std::int32_t>(bytes, name, 0);
  if (longest < 1 || longest > kMaxPieceBytes) {
    throw_user("{}: longest token of {} bytes, allowed: 1 to {}; not a llama2.c tokenizer?", name,
               longest, kMaxPieceBytes);
  }
  std::vector<Piece> pieces;
  while (!bytes.empty()) {
    const auto score = take<float>(bytes, name, pieces.size());
    const auto length = take<std::int32_t>(bytes, name, pieces.size());
    if (length < 0 || length > kMaxPieceBytes) {
      throw_user("{}: token {} has {} bytes, allowed: 0 to {}", name, pieces.size(), length,
                 kMaxPieceBytes);
    }
    const auto size = static_cast<std::size_t>(length);
    if (size > bytes.size()) throw_user("{}: cut off inside token {}", name, pieces.size());
    if (!std::isfinite(score)) throw_user("{}: token {} has no finite score", name, pieces.size());
    pieces.push_back({std::string(bytes.substr(0, size)), score});
    bytes.remove_prefix(size);
  }
  if (pieces.size() > static_cast<std::size_t>(kMaxTokenId)) {
    throw_user("{}: {} tokens, allowed: {}", name, pieces.size(), kMaxTokenId);
  }
  return pieces;
}

/// Rank of every piece by falling score; equal scores share a rank, so that the leftmost pair wins
/// among them.
std::vector<std::int32_t> score_ranks(const std::vector<Piece>& pieces) {
  std::vector<std::size_t> order(pieces.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](auto a, auto b) { return pieces[a].score > pieces[b].score; });
  std::vector<std::int32_t> ranks(pieces.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    const bool tied = i > 0 && pieces[order[i]].score == pieces[order[i - 1]].score;
    ranks[order[i]] = tied ? ranks[order[i - 1]] : narrow<std::int32_t>(i);
  }
  return ranks;
}

/// Any two pieces whose concatenation is a piece may merge.
void add_score_merges(const std::vector<Piece>& pieces, BpeModel& model) {
  const TextToId& vocab = model.vocab();
  const std::vector<std::int32_t> ranks = score_ranks(pieces);
  for (const auto& [text, id] : vocab) {
    const std::string_view whole = text;
    for (std::size_t cut = 1; cut < whole.size(); ++cut) {
      const auto left = vocab.find(whole.substr(0, cut));
      if (left == vocab.end()) continue;
      const auto right = vocab.find(whole.substr(cut));
      if (right == vocab.end()) continue;
      model.add_merge(left->second, right->second, ranks[static_cast<std::size_t>(id)], id);
    }
  }
}

}  // namespace

TokenizerVocabulary llama2c_vocabulary(std::string_view bytes, const std::string& name) {
  TokenizerVocabulary out{.dummy_prefix = true};
  for (const Piece& piece : read_pieces(bytes, name)) {
    const auto id = narrow<std::int32_t>(out.tokens.size());
    TokenKind kind = fallback_byte(piece.text) >= 0 ? TokenKind::kByte : TokenKind::kNormal;
    if (id == kUnknownId) kind = TokenKind::kUnknown;
    if (id == kBosId || id == kEosId) kind = TokenKind::kControl;
    out.tokens.push_back({replace_all(piece.text, " ", kMetaspace), piece.score, kind});
  }
  // The file spells them with line ends around.
  out.tokens[kBosId].text = "<s>";
  out.tokens[kEosId].text = "</s>";
  return out;
}

std::unique_ptr<Tokenizer> make_llama2c_tokenizer(std::string_view bytes, const std::string& name) {
  const std::vector<Piece> pieces = read_pieces(bytes, name);
  BpeConfig config;
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    if (!pieces[id].text.empty()) {
      config.vocab.try_emplace(pieces[id].text, narrow<std::int32_t>(id));
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    const std::string token = fallback_token(static_cast<std::uint8_t>(byte));
    if (!config.vocab.contains(token)) {
      throw_user("{}: has no token {}; a llama2.c tokenizer has all 256 byte tokens", name, token);
    }
  }
  config.byte_fallback = true;
  config.unknown_id = kUnknownId;
  const std::string space(1, ' ');
  config.space = space;
  PipelineParts parts{{}, {PrependStage{space}}, {}, BpeModel(std::move(config)), space, 1, {}};
  add_score_merges(pieces, parts.model);
  parts.model.finish();
  parts.added = {{.text = "<s>", .id = kBosId, .special = true},
                 {.text = "</s>", .id = kEosId, .special = true},
                 {.text = "<unk>", .id = kUnknownId, .special = true}};
  DecoderRules rules;
  rules.byte_fallback = true;
  std::vector<std::string> texts;
  for (const Piece& piece : pieces) texts.push_back(rules.text_of(piece.text));
  for (const AddedToken& token : parts.added)
    texts[static_cast<std::size_t>(token.id)] = token.text;
  parts.info.name = name;
  parts.info.vocab_size = narrow<std::int64_t>(pieces.size());
  parts.info.bos_id = kBosId;
  parts.info.eos_id = kEosId;
  parts.info.add_bos = true;
  parts.info.digest = tokenizer_digest(parts.info, {bytes});
  return std::make_unique<PipelineTokenizer>(std::move(parts), texts);
}

}  // namespace thimble
