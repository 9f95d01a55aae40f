// A model opened for reading only: evaluation and decoding.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "data/tokenizer.h"
#include "models/merged_source.h"
#include "models/transformer.h"

namespace thimble {

struct LoadedModel {
  std::filesystem::path directory;
  std::vector<MergedAdapter> adapters;  // merged into it as it was loaded
  std::unique_ptr<Arena> arena;
  std::unique_ptr<Transformer> model;
  std::unique_ptr<ResidentParamStore> store;
  std::unique_ptr<Tokenizer> tokenizer;
  DType dtype = DType::kBF16;
};

/// f32 if any tensor of the directory is, else bf16.
DType stored_dtype(const std::filesystem::path& directory);

/// Where the model lies in a model directory or a run. Throws UserError for anything else, with
/// what to do for a run that has no exported model yet.
std::filesystem::path model_directory(const std::filesystem::path& given);

/// A model as a command is given it.
struct ModelChoice {
  std::filesystem::path model;  // a model directory, a run or an adapter; empty: of an adapter
  std::vector<std::string> adapters;  // directories or runs, each with "=WEIGHT" behind it or not
};
struct FoundModel {
  std::filesystem::path directory;
  std::vector<MergedAdapter> adapters;
};
/// The directories that are meant: the base model of an adapter is the one that it names. Throws
/// UserError.
FoundModel find_model(const ModelChoice& choice);

/// What a command does with a model that takes the most memory; it is called with a model on a
/// planning arena, may allocate and compute there, and may refuse what the model cannot do by a
/// UserError.
using LargestUse = std::function<void(LoadedModel&)>;

/// Opens a Hugging Face directory, or a run (its exported model), with adapters merged into it, in
/// an arena of the size that loading it and its largest use plan. dtype "auto" is that of
/// config.json's tensors: bf16 unless they are f32. Throws UserError for whatever is wrong with the
/// directory.
LoadedModel load_model(const ModelChoice& choice, const std::string& dtype,
                       const LargestUse& largest_use);

/// Throws SystemError: what the model gave (`what`) is not finite, and which weight is not, if one
/// is.
[[noreturn]] void throw_not_finite(const LoadedModel& loaded, std::string_view what);

}  // namespace thimble
