// What becomes of every key of a config.json: honoured by the parser, irrelevant, or refused. Part
// of models/.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "models/config_fields.h"

namespace thimble {

/// Throws UserError for a key that would change the result in a way that is not built, unless its
/// value is the one that changes nothing. Returns the keys that are neither known to the parser nor
/// to change nothing, which transformers ignores for these families. own: keys that the parser
/// knows of this family alone.
std::vector<std::string> check_config_keys(const ConfigFields& config,
                                           std::span<const char* const> own);

/// The same for the keys of rope_scaling or rope_parameters, where an unknown one is refused.
void check_rope_keys(const ConfigFields& rope, std::span<const char* const> own);

}  // namespace thimble
