// A tokenizer as keys of a GGUF file.
#pragma once

#include "core/io/gguf_writer.h"
#include "launcher/convert/checkpoint_image.h"

namespace thimble {

/// Tokens, merges or scores, special tokens and the chat template of the origin's tokenizer, for an
/// embedding of `rows` rows; rows without a token become unused tokens. Throws UserError if there
/// is no tokenizer, if it has more tokens than rows, or if llama.cpp cuts texts in no such way.
GgufKeys gguf_vocabulary_keys(const ModelOrigin& origin, std::int64_t rows);

}  // namespace thimble
