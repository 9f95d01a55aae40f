// The way of what a CPU updates beside a GPU: gradients and weights of a part come to the host
// while the parts before it are updated, and weights go back while those after it are.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "core/base/completion.h"
#include "core/device/host_traffic.h"
#include "core/tensor/tensor.h"

namespace thimble {

class HostStage {
 public:
  /// part_bytes: of all tensors of one part, at most; see room_for().
  HostStage(Arena& arena, std::int64_t part_bytes);

  struct Piece {
    Tensor there;  // on the GPU
    bool comes = true, goes = false;
  };
  /// Room that a piece of so many bytes takes of a part's.
  static std::int64_t room_for(std::int64_t bytes);

  /// Whether one more part may begin: one is worked on and one comes, while another's weights go.
  bool has_room() const { return begun_ - finished_ < kPlaces - 1; }
  /// The pieces of a part are on their way, which nobody may change on the GPU until finish().
  /// times: on a planning arena, it stands for so many parts.
  void begin(std::span<const Piece> pieces, std::int64_t times = 1);
  /// Those of the part that was begun first, here, in their order.
  const std::vector<Tensor>& wait();
  /// It has been updated: what goes is on its way, and what the GPU is given from now on sees it.
  void finish();
  /// All that was moved so far, or on a planning arena would have been.
  const HostTraffic& traffic() const { return traffic_; }

 private:
  static constexpr std::int64_t kPlaces = 3;
  struct Place {
    std::vector<Piece> pieces;
    std::vector<Tensor> here;
    std::vector<Completion> copies;
  };
  Place& place(std::int64_t part) { return places_.at(static_cast<std::size_t>(part % kPlaces)); }

  Arena& arena_;
  std::int64_t part_bytes_;
  Reservation memory_;
  std::int64_t begun_ = 0, finished_ = 0;  // parts
  HostTraffic traffic_;
  std::array<Place, kPlaces> places_;  // after what they copy to
};

}  // namespace thimble
