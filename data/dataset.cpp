#include "data/dataset.h"

#include <algorithm>
#include <limits>

#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

template <typename T>
std::span<T> row_of(std::vector<T>& column, std::size_t row, std::size_t seq_len) {
  return std::span(column).subspan(row * seq_len, seq_len);
}

}  // namespace

Dataset::Dataset(std::int64_t seq_len) : seq_len_(seq_len) {
  TH_CHECK(seq_len >= 1 && seq_len <= std::numeric_limits<std::int32_t>::max(), "bad seq_len");
}

void Dataset::add(std::unique_ptr<RowSource> source) {
  first_row_.push_back(num_rows() + source->num_rows());
  sources_.push_back(std::move(source));
}

std::int64_t Dataset::source_rows(std::int64_t source) const {
  return sources_[narrow<std::size_t>(source)]->num_rows();
}

RowCounts Dataset::counts() const {
  RowCounts total;
  for (const auto& source : sources_) {
    const RowCounts counts = source->counts();
    total.tokens += counts.tokens;
    total.trained += counts.trained;
  }
  return total;
}

Batch Dataset::get_rows(std::span<const std::int64_t> row_ids) const {
  failpoint("data.rows");
  Batch batch;
  batch.rows = narrow<std::int64_t>(row_ids.size());
  batch.seq_len = seq_len_;
  const auto width = static_cast<std::size_t>(seq_len_);
  const std::size_t size = row_ids.size() * width;
  batch.tokens.resize(size);
  batch.targets.resize(size);
  batch.weights.resize(size);
  batch.doc_start.resize(size);
  batch.positions.resize(size);
  for (std::size_t i = 0; i < row_ids.size(); ++i) {
    const RowView view{row_of(batch.tokens, i, width), row_of(batch.targets, i, width),
                       row_of(batch.weights, i, width), row_of(batch.doc_start, i, width),
                       row_of(batch.positions, i, width)};
    const std::int64_t id = row_ids[i];
    if (id == kZeroRow) {
      fill_padding(view, 0);
      continue;
    }
    TH_CHECK(id >= 0 && id < num_rows(), "row id outside the data set");
    const auto source = std::upper_bound(first_row_.begin(), first_row_.end(), id) - 1;
    sources_[static_cast<std::size_t>(source - first_row_.begin())]->fill_row(id - *source, view);
  }
  return batch;
}

}  // namespace thimble
