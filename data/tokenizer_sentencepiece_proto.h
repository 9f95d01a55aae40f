// The little of a SentencePiece model file that must be known before the library may see it: is it
// sound, and how does it treat spaces. The library trusts its input; this reader does not.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer_vocabulary.h"

namespace thimble {

struct SentencePieceFacts {
  std::int64_t num_pieces = 0;
  bool is_bpe = false;
  bool add_dummy_prefix = true;
  bool remove_extra_spaces = true;
  bool escape_spaces = true;
  bool space_as_suffix = false;
  bool has_character_map = false;
  /// A piece has a space after another character, so text may not be cut in front of spaces.
  bool space_inside_piece = false;
};

/// Walks the whole message. Throws: UserError if it is cut off or malformed, has no or too many
/// pieces, is neither a BPE nor a unigram model, or has a character map that would send the library
/// outside its tables.
SentencePieceFacts inspect_sentencepiece(std::string_view bytes, const std::string& name);

/// A piece as it is stored; its text lies in the model's bytes.
struct StoredPiece {
  std::string_view text;
  float score = 0;
  TokenKind kind = TokenKind::kNormal;
};

/// The pieces of a model that inspect_sentencepiece() has accepted, by id.
std::vector<StoredPiece> sentencepiece_pieces(std::string_view bytes, const std::string& name);

/// A copy of the model that puts no dummy space in front of a text.
std::string without_dummy_prefix(std::string_view bytes);

}  // namespace thimble
