// Projections that files of some families hold as one matrix, one below the other; here they are
// parameters of their own.
#pragma once

#include <optional>
#include <string>

#include "core/nn/param.h"

namespace thimble {

/// Where a parameter lies in the matrix that holds several.
struct FusedPlace {
  std::string name;            // of the matrix
  std::int64_t first_row = 0;  // of the parameter in it
  std::int64_t rows = 0;       // of the matrix
};

/// The place of a query, key, value, gate or up projection of a model that has all of its group;
/// none of other parameters.
std::optional<FusedPlace> fused_place(const ParamTable& params, const std::string& name);

}  // namespace thimble
