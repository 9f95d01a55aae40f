// The one entry point of training to its data: from a DataSpec to sequences, their order and the
// validation sets.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/data_spec.h"
#include "data/dataset.h"
#include "data/sampler.h"
#include "data/summary.h"
#include "data/tokenizer.h"

namespace thimble {

struct ValidationSet {
  std::string name;  // "validation" for the split of the training data, else the source's name
  Dataset data;
  double bytes_per_token = 0;  // of text, for bits per byte
};

class TrainingData {
 public:
  const Dataset& train() const { return train_; }
  const Sampler& sampler() const { return *sampler_; }
  const std::vector<ValidationSet>& validation() const { return validation_; }
  const DataSummary& summary() const { return summary_; }
  /// TokenFile::content_digest of each source of the training data.
  const std::vector<std::string>& train_digests() const { return train_digests_; }

 private:
  friend class TrainingDataBuilder;
  explicit TrainingData(std::int64_t seq_len) : train_(seq_len) {}

  std::vector<std::unique_ptr<TokenFile>> files_;  // outlive the data sets that read them
  Dataset train_;
  std::unique_ptr<Sampler> sampler_;
  std::vector<ValidationSet> validation_;
  DataSummary summary_;
  std::vector<std::string> train_digests_;
};

/// Opens all sources of `spec`, tokenising into the cache what is not there yet, and splits, packs
/// and summarises. Not collective: on several ranks one rank per node (local rank 0) calls it
/// first, so that the others find the cache filled. `warn` and `progress` may be empty. Throws
/// UserError for anything wrong with the job or its data: nothing to train on, samples longer than
/// a sequence, too few samples for the split, a token file of another tokenizer, and all that
/// tokenize_files throws.
std::unique_ptr<TrainingData> open_training_data(const DataSpec& spec, const Tokenizer& tokenizer,
                                                 const WarnFn& warn, const ProgressFn& progress);

/// Opens the sources of `spec.eval` alone, for an evaluation without training: train() is empty,
/// and sampler() must not be called. Same errors.
std::unique_ptr<TrainingData> open_evaluation_data(const DataSpec& spec, const Tokenizer& tokenizer,
                                                   const WarnFn& warn, const ProgressFn& progress);

}  // namespace thimble
