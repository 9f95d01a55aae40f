// Bytes between a GPU and its host.
#pragma once

#include <cstdint>

namespace thimble {

struct HostTraffic {
  std::int64_t to_gpu = 0, to_host = 0;

  std::int64_t total() const { return to_gpu + to_host; }
  HostTraffic& operator+=(const HostTraffic& more) {
    to_gpu += more.to_gpu;
    to_host += more.to_host;
    return *this;
  }
  friend HostTraffic operator+(HostTraffic a, const HostTraffic& b) { return a += b; }
  friend HostTraffic operator-(const HostTraffic& a, const HostTraffic& b) {
    return {a.to_gpu - b.to_gpu, a.to_host - b.to_host};
  }
  friend bool operator==(const HostTraffic&, const HostTraffic&) = default;
};

}  // namespace thimble
