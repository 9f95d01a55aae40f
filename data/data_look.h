// A look at data before anything is started: the first lines of its files are read and tokenised,
// and the rest is estimated from them. Small data is read to its end and counted exactly. Writes
// nothing; memory is one piece of a document.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/data_spec.h"
#include "data/tokenizer.h"

namespace thimble {

/// What one source holds. Without `exact` documents and tokens are estimates.
struct SourceLook {
  std::string name;  // the first path
  std::int64_t documents = 0;
  std::int64_t tokens = 0;
  std::int64_t longest = 0;                      // in tokens, of the documents that were read
  std::int64_t read_bytes = 0, total_bytes = 0;  // of the files as stored
  bool has_prompts = false;
  bool exact = true;
};

struct DataLook {
  std::vector<SourceLook> train;

  std::int64_t documents() const;
  std::int64_t tokens() const;
  bool exact() const;
  /// Sequences of an epoch, about: what is held out does not count.
  std::int64_t sequences(const DataSpec& spec) const;
  /// "1200 tokens in 30 documents"; an estimate says from how much.
  std::string text() const;
};

/// Looks at the training and evaluation sources of `spec`; seq_len may be 0 here. Throws UserError
/// for what training would refuse of the files and lines that are read.
DataLook look_at_data(const DataSpec& spec, const Tokenizer& tokenizer);

/// Why training would refuse this data at these lengths of sequences; nullopt if nothing was seen.
std::optional<std::string> refusal_of(const DataLook& look, const DataSpec& spec);

}  // namespace thimble
