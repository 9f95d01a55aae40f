#include "data/dataset.h"

#include <algorithm>
#include <limits>

#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

template <typename T>
std::span<T> sequence_of(std::vector<T>& column, std::size_t sequence, std::size_t seq_len) {
  return std::span(column).subspan(sequence * seq_len, seq_len);
}

}  // namespace

Dataset::Dataset(std::int64_t seq_len) : seq_len_(seq_len) {
  TH_CHECK(seq_len >= 1 && seq_len <= std::numeric_limits<std::int32_t>::max(), "bad seq_len");
}

void Dataset::add(std::unique_ptr<SequenceSource> source) {
  first_sequence_.push_back(num_sequences() + source->num_sequences());
  sources_.push_back(std::move(source));
}

std::int64_t Dataset::source_sequences(std::int64_t source) const {
  return sources_[narrow<std::size_t>(source)]->num_sequences();
}

SequenceCounts Dataset::counts() const {
  SequenceCounts total;
  for (const auto& source : sources_) {
    const SequenceCounts counts = source->counts();
    total.tokens += counts.tokens;
    total.trained += counts.trained;
  }
  return total;
}

Batch Dataset::get_sequences(std::span<const std::int64_t> sequence_ids) const {
  failpoint("data.sequences");
  Batch batch;
  batch.sequences = narrow<std::int64_t>(sequence_ids.size());
  batch.seq_len = seq_len_;
  const auto width = static_cast<std::size_t>(seq_len_);
  const std::size_t size = sequence_ids.size() * width;
  batch.tokens.resize(size);
  batch.targets.resize(size);
  batch.weights.resize(size);
  batch.segment_start.resize(size);
  batch.positions.resize(size);
  for (std::size_t i = 0; i < sequence_ids.size(); ++i) {
    const SequenceView view{
        sequence_of(batch.tokens, i, width), sequence_of(batch.targets, i, width),
        sequence_of(batch.weights, i, width), sequence_of(batch.segment_start, i, width),
        sequence_of(batch.positions, i, width)};
    const std::int64_t id = sequence_ids[i];
    if (id == kZeroSequence) {
      fill_padding(view, 0);
      continue;
    }
    TH_CHECK(id >= 0 && id < num_sequences(), "sequence id outside the data set");
    const auto source = std::upper_bound(first_sequence_.begin(), first_sequence_.end(), id) - 1;
    sources_[static_cast<std::size_t>(source - first_sequence_.begin())]->fill_sequence(
        id - *source, view);
  }
  return batch;
}

}  // namespace thimble
