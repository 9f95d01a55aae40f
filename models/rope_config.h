// The RoPE part of config.json in every spelling. Part of models/.
#pragma once

#include <nlohmann/json.hpp>

#include "models/config_fields.h"
#include "models/families.h"
#include "models/model_config.h"

namespace thimble {

/// Reads rope_theta and rope_scaling, or rope_parameters, with the precedence of transformers; the
/// sizes of `config` are known. Throws UserError as parse_model_config does.
void parse_rope(const ConfigFields& top, const Family& family, ModelConfig& config,
                const NoteFn& note);

/// partial_rotary_factor, which counts more inside of rope_scaling or rope_parameters; 1 if it is
/// nowhere.
double rotary_part(const ConfigFields& top);

/// What rope_scaling of a written config.json holds; null for the default.
nlohmann::ordered_json rope_scaling_json(const ModelConfig& config);

/// The context that the RoPE frequencies were trained on, which the dynamic scaling stretches and
/// which is the max_position_embeddings of a written config.json.
std::int64_t trained_positions(const ModelConfig& config);

}  // namespace thimble
