#include "data/selection.h"

#include <algorithm>
#include <queue>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/random.h"

namespace thimble {

HoldOut::Key HoldOut::key(std::int64_t document) const {
  const CounterRandom random(seed_, RandomPurpose::kSplit);
  return {random.u64(static_cast<std::uint64_t>(document)), document};
}

HoldOut::HoldOut(const DocumentSelection& selection, std::uint64_t seed, std::int64_t count)
    : seed_(seed) {
  TH_CHECK(count >= 1, "nothing to hold out");
  std::priority_queue<Key> smallest;  // the `count` smallest keys so far, largest on top
  for (std::int64_t i = 0; i < selection.file().num_documents(); ++i) {
    if (selection.length(i) == 0) continue;
    smallest.push(key(i));
    if (narrow<std::int64_t>(smallest.size()) > count) smallest.pop();
  }
  TH_CHECK_EQ(narrow<std::int64_t>(smallest.size()), count);
  limit_ = smallest.top();
}

DocumentSelection DocumentSelection::restricted(const HoldOut& hold_out, bool inside) const {
  DocumentSelection result = *this;
  result.hold_out_ = hold_out;
  result.inside_ = inside;
  return result;
}

std::int64_t DocumentSelection::length(std::int64_t document) const {
  if (hold_out_.has_value() && hold_out_->contains(document) != inside_) return 0;
  const std::int64_t tokens = file_->document_tokens(document);
  if (tokens <= seq_len_ || excess_ == ExcessLength::kSplit) return tokens;
  return excess_ == ExcessLength::kTruncate ? seq_len_ : 0;
}

std::int64_t DocumentSelection::num_used() const {
  std::int64_t used = 0;
  for (std::int64_t i = 0; i < file_->num_documents(); ++i) used += length(i) > 0 ? 1 : 0;
  return used;
}

void check_excess(const TokenFile& file, ExcessLength excess, std::int64_t seq_len,
                  const std::string& where) {
  if (excess != ExcessLength::kError) return;
  std::int64_t count = 0;
  std::int64_t longest = 0;
  for (std::int64_t i = 0; i < file.num_documents(); ++i) {
    count += file.document_tokens(i) > seq_len ? 1 : 0;
    longest = std::max(longest, file.document_tokens(i));
  }
  if (count == 0) return;
  throw_user(
      "{}: {} of {} samples are longer than seq_len = {} (the longest has {} tokens); raise "
      "data.seq_len, or set data.excess_length_strategy to drop, truncate or split",
      where, count, file.num_documents(), seq_len, longest);
}

}  // namespace thimble
