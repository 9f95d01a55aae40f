// Writes what was trained: a model, or the adapter beside one as a directory that PEFT opens.
#pragma once

#include "models/hf_export.h"

namespace thimble {

/// export_hf() of a model; of one with adapters a directory of adapter_config.json,
/// adapter_model.safetensors and the files to copy, written and compared likewise. A start from the
/// largest singular values is written as the plain LoRA of twice the rank that has the same effect
/// on the model as it was.
std::optional<std::filesystem::path> export_trained(Arena& arena, const Transformer& model,
                                                    ParamStore& store, const HfExport& options);

/// Elements of all tensors that it writes.
std::int64_t exported_elements(const Transformer& model);

}  // namespace thimble
