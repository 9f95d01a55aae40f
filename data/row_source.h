// Rows of one source: where the documents of a token file stand in rows of seq_len positions.
//
// Every target is the next token of the same document, with weight 1 if that token is trained and 0
// otherwise; the last token of a document has no target. Text is one stream of tokens cut into
// rows, so a document may go on in the next row, where it begins anew (doc_start and positions
// restart); the last position of a row then has the first token of the next row as its target, so
// no target is lost at the cut. Samples are packed whole. Positions that no document fills are one
// padding document at the end of the row: token 0, weight 0.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "data/packing.h"
#include "data/selection.h"

namespace thimble {

/// The columns of one row of a Batch; all of seq_len elements.
struct RowView {
  std::span<std::int32_t> tokens;
  std::span<std::int32_t> targets;
  std::span<float> weights;
  std::span<std::int32_t> doc_start;
  std::span<std::int32_t> positions;
};

/// Makes positions begin .. end of the row a padding document.
void fill_padding(RowView row, std::int64_t begin);

/// Totals over all rows of a source.
struct RowCounts {
  std::int64_t tokens = 0;   // positions that hold a token of a document
  std::int64_t trained = 0;  // positions with weight 1
};

class RowSource {
 public:
  virtual ~RowSource() = default;
  virtual std::int64_t num_rows() const = 0;
  /// Writes row `row` in 0 .. num_rows() - 1; safe from several threads.
  virtual void fill_row(std::int64_t row, RowView out) const = 0;
  virtual RowCounts counts() const = 0;
};

/// Rows begin .. end of a stream.
using RowRange = std::pair<std::int64_t, std::int64_t>;

/// The text of a selection as one stream of tokens cut into rows of seq_len; the last row is
/// padded.
class TextRows final : public RowSource {
 public:
  /// Uses the rows in `ranges` (ascending, disjoint), all if empty. Where a range ends inside the
  /// stream the last target is dropped, because its token is the first of a row outside. Memory: 8
  /// bytes for every 64 documents.
  explicit TextRows(const DocumentSelection& selection, std::vector<RowRange> ranges = {});

  std::int64_t num_rows() const override { return range_begin_.back(); }
  void fill_row(std::int64_t row, RowView out) const override;
  RowCounts counts() const override;

  /// Rows of the whole stream, whatever the ranges.
  std::int64_t num_stream_rows() const;

 private:
  struct Place {
    std::int64_t document = 0;
    std::int64_t begin = 0;  // of the document in the stream
  };
  Place locate(std::int64_t position) const;

  DocumentSelection selection_;
  std::vector<RowRange> ranges_;
  std::vector<std::int64_t> range_begin_;  // rows of this source before each range, and in all
  std::vector<std::int64_t> marks_;        // stream position of documents 0, 64, 128, ...
  std::int64_t num_tokens_ = 0;
};

/// Samples packed into rows, or one sample a row. A document longer than a row (strategy split)
/// becomes several pieces, each a document of its own whose last position still has its target.
class SampleRows final : public RowSource {
 public:
  SampleRows(const DocumentSelection& selection, bool packing, bool train_on_inputs);

  std::int64_t num_rows() const override { return plan_.num_rows(); }
  void fill_row(std::int64_t row, RowView out) const override;
  RowCounts counts() const override;

 private:
  struct Piece {
    std::uint32_t document;
    std::uint32_t index;  // which piece of it
  };
  std::int64_t prompt(std::int64_t document) const;

  DocumentSelection selection_;
  bool train_on_inputs_;
  std::vector<Piece> pieces_;
  RowPlan plan_;
};

}  // namespace thimble
