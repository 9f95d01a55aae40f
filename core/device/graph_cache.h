// The graph cache: work of a GPU that comes back with the same kernels, addresses and arguments is
// done once, then recorded, then replayed as one graph, which spares the host the work of starting
// every kernel.
#pragma once

#include <cstdint>
#include <functional>

namespace thimble {

struct GpuGraphs;

class GraphCache {
 public:
  enum class How { kDone, kRecorded, kReplayed };

  /// graphs null: nothing is recorded, everything is done as it comes.
  explicit GraphCache(const GpuGraphs* graphs) : graphs_(graphs) {}
  ~GraphCache() { forget(); }
  GraphCache(const GraphCache&) = delete;
  GraphCache& operator=(const GraphCache&) = delete;

  /// Has the work of `body` done on the device. `key` stands for all that the kernels and their
  /// arguments depend on: with the key of the last two calls a record is made, and replayed as long
  /// as the key stays. `body` is called unless a record is replayed, must not wait for the device,
  /// and must leave nothing behind on the host: where a record fails it is called again, and
  /// nothing is recorded from then on.
  How run(std::uint64_t key, const std::function<void()>& body);
  /// How often a record was replayed.
  std::int64_t replays() const { return replays_; }

 private:
  void forget();
  const GpuGraphs* graphs_;
  std::uint64_t key_ = 0;
  bool seen_ = false;  // work of this key has been done
  void* graph_ = nullptr;
  std::int64_t replays_ = 0;
};

}  // namespace thimble
