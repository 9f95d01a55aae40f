// The shape of a model's caches, for tests of whole models.
#pragma once

#include "compress/kv_options.h"
#include "models/model_config.h"

namespace thimble {

inline KvShape kv_shape_of(const ModelConfig& c, DType dtype, std::int64_t capacity) {
  return {.layers = c.num_layers,
          .heads = c.num_heads,
          .kv_heads = c.num_kv_heads,
          .head_dim = c.head_dim,
          .windows = c.windows,
          .dtype = dtype,
          .capacity = capacity};
}

}  // namespace thimble
