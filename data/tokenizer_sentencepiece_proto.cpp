#include "data/tokenizer_sentencepiece_proto.h"

#include <cmath>
#include <cstring>
#include <optional>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "data/tokenizer_bpe.h"
#include "data/tokenizer_text.h"

namespace thimble {
namespace {

constexpr std::size_t kMaxPieceLength = 1024;

/// One field of a message in the protocol buffer wire format.
struct WireField {
  std::uint64_t number = 0;
  std::uint64_t value = 0;   // integers
  std::string_view payload;  // strings and messages; the raw bytes of fixed-size fields
};

class WireReader {
 public:
  WireReader(std::string_view bytes, const std::string& name) : rest_(bytes), name_(name) {}

  std::optional<WireField> next() {
    if (rest_.empty()) return std::nullopt;
    const std::uint64_t tag = varint();
    WireField field;
    field.number = tag >> 3;
    switch (tag & 7) {
      case 0:
        field.value = varint();
        break;
      case 1:
        field.payload = take(8);
        break;
      case 2:
        field.payload = take(varint());
        break;
      case 5:
        field.payload = take(4);
        break;
      default:
        malformed();
    }
    if (field.number == 0) malformed();
    return field;
  }

 private:
  [[noreturn]] void malformed() const {
    throw_user("{}: not a SentencePiece model, or cut off", name_);
  }

  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) malformed();
      const auto byte = static_cast<std::uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    malformed();
  }

  std::string_view take(std::uint64_t size) {
    if (size > rest_.size()) malformed();
    const std::string_view part = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return part;
  }

  std::string_view rest_;
  const std::string& name_;
};

std::uint32_t word_at(std::string_view bytes, std::size_t index) {
  std::uint32_t word = 0;
  std::memcpy(&word, bytes.data() + 4 * index, 4);
  return word;
}

/// A double-array trie and the replacements it points to, as the library stores them: size of the
/// trie in bytes, the trie, the replacements, each ended by a zero byte.
bool character_map_is_sound(std::string_view map) {
  if (map.size() < 4) return false;
  const std::size_t trie_bytes = word_at(map, 0);
  if (trie_bytes % 4 != 0 || trie_bytes == 0 || trie_bytes >= map.size() - 4) return false;
  const std::string_view trie = map.substr(4, trie_bytes);
  const std::string_view replacements = map.substr(4 + trie_bytes);
  if (replacements.back() != '\0') return false;
  const std::size_t units = trie_bytes / 4;
  for (std::size_t i = 0; i < units; ++i) {
    const std::uint32_t unit = word_at(trie, i);
    if ((unit >> 31) != 0) {
      if ((unit & 0x7FFFFFFFu) >= replacements.size()) return false;
      continue;
    }
    const std::size_t offset = static_cast<std::size_t>(unit >> 10) << ((unit & (1u << 9)) >> 6);
    if (((i ^ offset) | 0xFF) >= units) return false;
  }
  return true;
}

// `index`: of the piece, for messages.
StoredPiece read_piece(std::string_view bytes, const std::string& name, std::int64_t index) {
  constexpr std::uint64_t kTypes = 6;
  StoredPiece piece;
  WireReader reader(bytes, name);
  while (const auto field = reader.next()) {
    if (field->number == 1) {
      piece.text = field->payload;
      if (piece.text.empty() || piece.text.size() > kMaxPieceLength) {
        throw_user("{}: piece {} has {} bytes, allowed: 1 to {}", name, index, piece.text.size(),
                   kMaxPieceLength);
      }
    } else if (field->number == 2) {
      piece.score = 0;
      if (field->payload.size() == 4) std::memcpy(&piece.score, field->payload.data(), 4);
      if (!std::isfinite(piece.score)) throw_user("{}: piece {} has no finite score", name, index);
    } else if (field->number == 3 && field->value >= 1 && field->value <= kTypes) {
      piece.kind = static_cast<TokenKind>(field->value);
    }
  }
  return piece;
}

// Whether it has a space after another character.
bool has_inner_space(std::string_view text) {
  while (text.starts_with(kMetaspace)) text.remove_prefix(kMetaspace.size());
  return text.find(kMetaspace) != std::string_view::npos;
}

void read_trainer(std::string_view bytes, const std::string& name, SentencePieceFacts& facts) {
  constexpr std::uint64_t kUnigram = 1;
  constexpr std::uint64_t kBpe = 2;
  WireReader reader(bytes, name);
  while (const auto field = reader.next()) {
    if (field->number == 3) {
      if (field->value != kUnigram && field->value != kBpe) {
        throw_user("{}: model type {} is not supported; supported: unigram (1), BPE (2)", name,
                   field->value);
      }
      facts.is_bpe = field->value == kBpe;
    } else if (field->number == 24) {
      facts.space_as_suffix = field->value != 0;
    }
  }
}

void read_normalizer(std::string_view bytes, const std::string& name, SentencePieceFacts& facts) {
  WireReader reader(bytes, name);
  while (const auto field = reader.next()) {
    if (field->number == 2 && !field->payload.empty()) {
      facts.has_character_map = true;
      if (!character_map_is_sound(field->payload)) {
        throw_user("{}: the character map of the normalizer is malformed", name);
      }
    }
    if (field->number == 3) facts.add_dummy_prefix = field->value != 0;
    if (field->number == 4) facts.remove_extra_spaces = field->value != 0;
    if (field->number == 5) facts.escape_spaces = field->value != 0;
  }
}

}  // namespace

SentencePieceFacts inspect_sentencepiece(std::string_view bytes, const std::string& name) {
  SentencePieceFacts facts;
  WireReader reader(bytes, name);
  while (const auto field = reader.next()) {
    if (field->number == 1) {
      const StoredPiece piece = read_piece(field->payload, name, facts.num_pieces++);
      facts.space_inside_piece |= has_inner_space(piece.text);
    }
    if (field->number == 2) read_trainer(field->payload, name, facts);
    if (field->number == 3 || field->number == 5) {
      SentencePieceFacts denormalizer;
      read_normalizer(field->payload, name, field->number == 3 ? facts : denormalizer);
    }
  }
  if (facts.num_pieces == 0 || facts.num_pieces > kMaxTokenId) {
    throw_user("{}: {} pieces, allowed: 1 to {}", name, facts.num_pieces, kMaxTokenId);
  }
  return facts;
}

std::vector<StoredPiece> sentencepiece_pieces(std::string_view bytes, const std::string& name) {
  std::vector<StoredPiece> pieces;
  WireReader reader(bytes, name);
  while (const auto field = reader.next()) {
    if (field->number == 1)
      pieces.push_back(read_piece(field->payload, name, narrow<std::int64_t>(pieces.size())));
  }
  return pieces;
}

std::string without_dummy_prefix(std::string_view bytes) {
  // A repeated sub-message overrides the fields it names: normalizer_spec (3) { add_dummy_prefix
  // (3): false }.
  constexpr std::string_view kOverride("\x1A\x02\x18\x00", 4);
  return std::string(bytes).append(kOverride);
}

}  // namespace thimble
