// The compute weights of one rank among several. An update leases its own rows, writes them
// and reports them; the store sees to it that a pinned block shows the newest rows of all ranks.
// Implementations live in other folders.
#pragma once

#include "core/nn/param_store.h"
#include "core/nn/state_residency.h"

namespace thimble {

/// The StateResidency of the entries that are in_weight_store(): what this rank holds of them.
class WeightStore : public ParamStore, public StateResidency {
 public:
  /// This rank's rows have been written. Every rank reports the same parameters in the same order.
  virtual void changed(ParamId id) = 0;
  /// All changes of an update have been reported: afterwards every rank can pin anything.
  virtual void publish() = 0;
  /// Whether weights keep their addresses and pinning moves nothing, so that a micro-batch can be
  /// recorded and replayed (GraphCache).
  virtual bool stays_in_place() const = 0;
  /// Whether the state store keeps the rows. It then hears of their uses among those of all other
  /// state, and weights that can be derived from a master are not kept at all.
  virtual bool is_kept_with_state() const { return false; }
};

}  // namespace thimble
