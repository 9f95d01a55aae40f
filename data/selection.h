// Which documents of a token file a data set uses, and how much of each: the excess length strategy
// and the split into training and validation, as pure functions of the document's index. No memory
// per document.
//
// Validation documents are the `count` documents with the smallest hash of (seed, index): the
// choice does not depend on threads or sequence length, and adding documents at the end moves few.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "data/data_spec.h"
#include "data/token_file.h"

namespace thimble {

class DocumentSelection;

/// A fixed number of documents chosen by hash from a selection.
class HoldOut {
 public:
  /// Chooses `count` >= 1 of the used documents of `selection`, which must have at least so many.
  HoldOut(const DocumentSelection& selection, std::uint64_t seed, std::int64_t count);

  bool contains(std::int64_t document) const { return key(document) <= limit_; }

 private:
  using Key = std::pair<std::uint64_t, std::int64_t>;
  Key key(std::int64_t document) const;

  std::uint64_t seed_;
  Key limit_;
};

/// Documents of a token file under an excess length strategy, optionally one side of a split.
class DocumentSelection {
 public:
  DocumentSelection(const TokenFile& file, ExcessLength excess, std::int64_t seq_len)
      : file_(&file), excess_(excess), seq_len_(seq_len) {}

  /// The same, restricted to the documents inside (or outside) `hold_out`.
  DocumentSelection restricted(const HoldOut& hold_out, bool inside) const;

  const TokenFile& file() const { return *file_; }
  std::int64_t seq_len() const { return seq_len_; }
  /// Leading tokens of the document that are used; 0 if it is not used at all.
  std::int64_t length(std::int64_t document) const;
  /// Documents used, all of them counted.
  std::int64_t num_used() const;

 private:
  const TokenFile* file_;
  ExcessLength excess_;
  std::int64_t seq_len_;
  std::optional<HoldOut> hold_out_;
  bool inside_ = false;
};

/// Under kError throws a UserError that begins with `where` and names count, longest and the fix,
/// if a document is longer than `seq_len`.
void check_excess(const TokenFile& file, ExcessLength excess, std::int64_t seq_len,
                  const std::string& where);

}  // namespace thimble
