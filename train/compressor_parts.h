// What compressors have to know of a model, made of its configuration and its files.
#pragma once

#include <filesystem>
#include <memory>

#include "compress/compressor_model.h"
#include "compress/kvc_config.h"
#include "models/transformer.h"
#include "train/train_spec.h"

namespace thimble {

/// Throws UserError for a model whose cache cannot be compressed, naming the key of config.json.
BackboneShape backbone_shape(const ModelConfig& config);

/// What a cache has to know of it. capacity: positions that a sequence may grow to.
KvShape kv_shape_of(const ModelConfig& config, DType dtype, std::int64_t capacity);

/// The model of a directory, all of whose weights it reads.
KvcBase kvc_base(const ModelConfig& config, const std::filesystem::path& directory);

/// Null if the spec has none. The model must outlive it.
std::unique_ptr<CompressorModel> make_compressor(const TrainSpec& spec, const Transformer& model);

}  // namespace thimble
