// State in the memory of a GPU's host. An update on the CPU works on it where it lies. For one on
// the GPU its rows come into a window of the GPU's memory as they are announced, beside the
// kernels, and what was changed goes back while the next rows are worked on.
#pragma once

#include <deque>
#include <exception>
#include <list>
#include <vector>

#include "core/base/completion.h"
#include "core/device/host_traffic.h"
#include "core/nn/state_residency.h"
#include "offload/ring.h"

namespace thimble {

class HostedState final : public StateStore {
 public:
  /// window_bytes: of the GPU's memory, at least three times what one update leases there at once.
  HostedState(Arena& arena, const StateTable& table, int rank, std::int64_t window_bytes);
  /// Waits for copies under way.
  ~HostedState() override;

  void create(StateId id) override;
  void erase(StateId id) override;
  void announce(std::span<const StateUse> order) override;
  /// Throws SystemError if the window is too small for all that is leased at once.
  StateLease acquire(const StateUse& use) override;
  void release(const StateUse& use, const Tensor& tensor) noexcept override;
  void commit(std::int64_t step) override;
  /// A fourth of the window: one part is worked on, one comes, one goes, and the ring's ends fit
  /// together.
  std::int64_t window_bytes() const override { return window_bytes_ / 4; }

  /// What leases have moved; on a planning arena, what they would have.
  const HostTraffic& traffic() const { return traffic_; }

 private:
  enum class Phase : std::uint8_t { kComing, kLeased, kGoing };
  static constexpr std::int64_t kAtHome = -1;
  struct Buffer {
    StateUse use{};
    Tensor home{};                 // the rows on the host
    std::int64_t begin = kAtHome;  // in the ring
    Tensor lent{};                 // in the window, or `home`
    Phase phase = Phase::kComing;
    std::vector<Completion> copies{};
  };
  using Buffers = std::list<Buffer>;

  bool is_planning() const { return arena_.device().planning; }
  bool stays_home(const StateUse& use) const;
  Tensor rows_at_home(const StateUse& use) const;
  Tensor in_window(const Tensor& home, std::int64_t begin) const;
  void count(const StateUse& use, const Tensor& home);
  Buffers::iterator take_ahead(const StateUse& use);
  Buffers::iterator make_buffer(const StateUse& use, bool may_wait);
  bool is_free_of_changes(const StateUse& use, const Tensor& home) const;
  void read_ahead();
  void drop_ahead();
  void settle();
  void wait_for_copies(const Tensor* of);
  void finish_copy(Buffers::iterator buffer);
  void free(Buffers::iterator buffer);
  void reap();
  void throw_failure() const;

  Arena& arena_;
  const StateTable& table_;
  int rank_;
  std::int64_t window_bytes_;
  std::vector<Tensor> tensors_;  // by StateId, on the host
  Reservation window_;
  Ring ring_;
  HostTraffic traffic_;
  std::deque<StateUse> order_;  // announced, not acquired yet
  std::size_t ahead_ = 0;       // of them, those that have a buffer
  std::exception_ptr failure_;  // the first one of a copy
  Buffers buffers_;             // in the order in which they were made; after what they copy
};

}  // namespace thimble
