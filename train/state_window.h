// How much memory state moves through where nothing is said.
#pragma once

#include "core/nn/state_table.h"
#include "train/offload_spec.h"

namespace thimble {

/// Bytes that do not limit the disk or the bus, and are little beside the state that a rank keeps
/// elsewhere. An update under the forward pass hides what fits the window: a layer's state, while
/// the layers before it compute.
std::int64_t usual_window(const StateTable& table, int rank, const OffloadSpec& spec);

}  // namespace thimble
