#include "parallel/changed_rows.h"

#include "core/base/numeric.h"

namespace thimble {
namespace {

constexpr std::int64_t kRowsBytes = 8 * kMiB;

}  // namespace

void ChangedRows::add(RowParts parts) {
  bucket_bytes_ += parts.tensor.nbytes();
  bucket_.push_back(std::move(parts));
  if (bucket_bytes_ >= kRowsBytes) start();
}

void ChangedRows::start() {
  if (bucket_.empty()) return;
  running_.push_back(start_all_gather(comm_, {"all_gather", "updated weights"}, bucket_));
  bucket_.clear();
  bucket_bytes_ = 0;
}

void ChangedRows::publish() {
  start();
  for (Completion& gather : running_) gather.follow();
  running_.clear();
}

}  // namespace thimble
