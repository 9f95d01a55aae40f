// Sequences of one source: where the documents of a token file stand in sequences of seq_len
// positions.
//
// Every target is the next token of the same document, with weight 1 if that token is trained and 0
// otherwise; the last token of a document has no target. Text is one stream of tokens cut into
// sequences, so a document may go on in the next sequence, where it begins anew (segment_start and
// positions restart); the last position of a sequence then has the first token of the next sequence
// as its target, so no target is lost at the cut. Samples are packed whole. Positions that no
// document fills are one padding document at the end of the sequence: token 0, weight 0.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "data/packing.h"
#include "data/selection.h"

namespace thimble {

/// The columns of one sequence of a Batch; all of seq_len elements.
struct SequenceView {
  std::span<std::int32_t> tokens;
  std::span<std::int32_t> targets;
  std::span<float> weights;
  std::span<std::int32_t> segment_start;
  std::span<std::int32_t> positions;
};

/// Makes positions begin .. end of the sequence a padding document.
void fill_padding(SequenceView sequence, std::int64_t begin);

/// Totals over all sequences of a source.
struct SequenceCounts {
  std::int64_t tokens = 0;   // positions that hold a token of a document
  std::int64_t trained = 0;  // positions with weight 1
};

class SequenceSource {
 public:
  virtual ~SequenceSource() = default;
  virtual std::int64_t num_sequences() const = 0;
  /// Writes sequence `sequence` in 0 .. num_sequences() - 1; safe from several threads.
  virtual void fill_sequence(std::int64_t sequence, SequenceView out) const = 0;
  virtual SequenceCounts counts() const = 0;
};

/// Sequences begin .. end of a stream.
using SequenceRange = std::pair<std::int64_t, std::int64_t>;

/// The text of a selection as one stream of tokens cut into sequences of seq_len; the last sequence
/// is padded.
class TextSequences final : public SequenceSource {
 public:
  /// Uses the sequences in `ranges` (ascending, disjoint), all if empty. Where a range ends inside
  /// the stream the last target is dropped, because its token is the first of a sequence outside.
  /// Memory: 8 bytes for every 64 documents.
  explicit TextSequences(const DocumentSelection& selection,
                         std::vector<SequenceRange> ranges = {});

  std::int64_t num_sequences() const override { return range_begin_.back(); }
  void fill_sequence(std::int64_t sequence, SequenceView out) const override;
  SequenceCounts counts() const override;

  /// Sequences of the whole stream, whatever the ranges.
  std::int64_t num_stream_sequences() const;

 private:
  struct Place {
    std::int64_t document = 0;
    std::int64_t begin = 0;  // of the document in the stream
  };
  Place locate(std::int64_t position) const;

  DocumentSelection selection_;
  std::vector<SequenceRange> ranges_;
  std::vector<std::int64_t> range_begin_;  // sequences of this source before each range, and in all
  std::vector<std::int64_t> marks_;        // stream position of documents 0, 64, 128, ...
  std::int64_t num_tokens_ = 0;
};

/// Samples packed into sequences, or one sample a sequence. A document longer than a sequence
/// (strategy split) becomes several pieces, each a document of its own whose last position still
/// has its target.
class SampleSequences final : public SequenceSource {
 public:
  SampleSequences(const DocumentSelection& selection, bool packing, bool train_on_inputs);

  std::int64_t num_sequences() const override { return plan_.num_sequences(); }
  void fill_sequence(std::int64_t sequence, SequenceView out) const override;
  SequenceCounts counts() const override;

 private:
  struct Piece {
    std::uint32_t document;
    std::uint32_t index;  // which piece of it
  };
  DocumentSelection selection_;
  bool train_on_inputs_;
  std::vector<Piece> pieces_;
  SequencePlan plan_;
};

}  // namespace thimble
