#include "offload/ring.h"

#include <algorithm>

#include "core/base/error.h"

namespace thimble {

std::optional<std::int64_t> Ring::take(std::int64_t bytes) {
  std::int64_t begin = 0;
  if (taken_.empty()) {
    if (bytes > capacity_) return std::nullopt;
  } else {
    const std::int64_t tail = taken_.front().begin, head = taken_.back().end;
    const bool wrapped = taken_.back().begin < tail;
    begin = head;
    if (!wrapped && capacity_ - head < bytes) begin = 0;
    if ((wrapped || begin == 0) && begin + bytes > tail) return std::nullopt;
  }
  taken_.push_back({begin, begin + bytes});
  return begin;
}

void Ring::give_back(std::int64_t begin) {
  const auto found = std::find_if(taken_.begin(), taken_.end(),
                                  [&](const Stretch& s) { return s.begin == begin && !s.free; });
  TH_CHECK(found != taken_.end(), "nothing was taken at {}", begin);
  found->free = true;
  while (!taken_.empty() && taken_.front().free) taken_.pop_front();
  while (!taken_.empty() && taken_.back().free) taken_.pop_back();
}

}  // namespace thimble
