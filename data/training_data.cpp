#include "data/training_data.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "data/split.h"
#include "data/tokenize.h"

namespace thimble {
namespace {

// What messages call a source: the file, unless the user named the source.
std::string name_of(const SourceSpec& source) {
  if (!source.name.empty()) return source.name;
  return source.paths.empty() ? "data" : source.paths.front();
}

void check_spec(const DataSpec& spec) {
  if (spec.seq_len < 1 || spec.seq_len > (std::int64_t{1} << 30)) {
    throw_user("data.seq_len = {}; allowed: 1 to {}", spec.seq_len, std::int64_t{1} << 30);
  }
  if (!(spec.val_set_size >= 0) || !std::isfinite(spec.val_set_size)) {
    throw_user("data.val_set_size = {}; allowed: 0, a share below 1, or a number of samples",
               spec.val_set_size);
  }
}

}  // namespace

class TrainingDataBuilder {
 public:
  TrainingDataBuilder(const DataSpec& spec, const Tokenizer& tokenizer, const WarnFn& warn,
                      const ProgressFn& progress)
      : spec_(spec), tokenizer_(tokenizer), summary_(spec.seq_len) {
    check_spec(spec);
    tokenize_.threads = spec.threads;
    tokenize_.warn = warn;
    tokenize_.progress = progress;
    data_.reset(new TrainingData(spec.seq_len));
  }

  void add_train() {
    if (spec_.train.empty()) throw_user("data.train: no source is given");
    std::vector<const TokenFile*> files;
    double tokens = 0;
    for (const SourceSpec& source : spec_.train) {
      files.push_back(&open(source));
      tokens += static_cast<double>(files.back()->num_tokens());
      data_->train_digests_.push_back(files.back()->content_digest());
    }
    ValidationSet held_out{"validation", Dataset(spec_.seq_len), text_bytes_per_token(files)};
    std::vector<SamplerSource> order;
    for (std::size_t s = 0; s < files.size(); ++s) {
      const double part = static_cast<double>(files[s]->num_tokens()) / tokens;
      check_fills_a_sequence(spec_.train[s], *files[s]);
      SplitSequences sequences = make_sequences(spec_.train[s], *files[s], val_set_size(part));
      summary_.describe(describe_source(spec_.train[s], tokenizer_));
      order.push_back({sequences.train->num_sequences(), spec_.train[s].weight});
      data_->train_.add(std::move(sequences.train));
      if (sequences.validation) held_out.data.add(std::move(sequences.validation));
      summary_.add(*files[s], excess(*files[s]), spec_.train[s].train_on_inputs);
    }
    data_->sampler_ = std::make_unique<Sampler>(std::move(order), spec_.seed);
    if (held_out.data.num_sequences() > 0) {
      if (held_out.data.counts().trained == 0) {
        throw_user("data.val_set_size = {}: the samples held out have no trained token; raise it",
                   spec_.val_set_size);
      }
      data_->validation_.push_back(std::move(held_out));
    }
    finish_summary();
  }

  void add_eval() {
    for (const SourceSpec& source : spec_.eval) {
      const TokenFile& file = open(source);
      ValidationSet set{name_of(source), Dataset(spec_.seq_len), text_bytes_per_token({&file})};
      set.data.add(make_sequences(source, file, 0).train);
      if (set.data.counts().trained == 0) throw_nothing_trained(name_of(source));
      for (const ValidationSet& other : data_->validation_) {
        if (other.name == set.name) throw_user("data.eval: two sets are named '{}'", set.name);
      }
      data_->validation_.push_back(std::move(set));
    }
  }

  std::unique_ptr<TrainingData> take() { return std::move(data_); }

 private:
  const TokenFile& open(const SourceSpec& source) {
    if (spec_.cache_dir.empty()) throw_user("data.cache_dir is empty; name a directory");
    data_->files_.push_back(open_or_make(source));
    const TokenFile& file = *data_->files_.back();
    file.check_tokenizer(tokenizer_.digest(), tokenizer_.name());
    return file;
  }

  /// A damaged copy in the cache is made again; one that the user named is not ours to replace.
  std::unique_ptr<TokenFile> open_or_make(const SourceSpec& source) {
    const auto path = [&] {
      return cached_token_file(source, tokenizer_, spec_.cache_dir, tokenize_);
    };
    const std::filesystem::path first = path();
    const bool cached = first != expand_paths(source.paths).front();
    static_cast<void>(File::open_read(first));  // what cannot be opened is not damaged
    try {
      auto file = std::make_unique<TokenFile>(first);
      if (cached) file->set_cached();
      return file;
    } catch (const std::runtime_error& e) {
      if (!cached) throw;
      if (tokenize_.warn) tokenize_.warn(fmt::format("{}; it is made anew", e.what()));
      std::filesystem::remove(first);
    }
    auto file = std::make_unique<TokenFile>(path());
    file->set_cached();
    return file;
  }

  ExcessLength excess(const TokenFile& file) const {
    return spec_.excess_length.value_or(file.has_prompts() ? ExcessLength::kError
                                                           : ExcessLength::kSplit);
  }

  /// A number of samples is divided over the sources by their tokens.
  double val_set_size(double part) const {
    if (spec_.val_set_size < 1) return spec_.val_set_size;
    return std::max(1.0, std::round(spec_.val_set_size * part));
  }

  // With less text a sequence would be mostly padding, which nobody wants.
  void check_fills_a_sequence(const SourceSpec& source, const TokenFile& file) const {
    if (file.has_prompts() || file.num_tokens() >= spec_.seq_len) return;
    throw_user(
        "{}: {} tokens found, fewer than one sequence of data.seq_len = {}; add text or lower it",
        name_of(source), file.num_tokens(), spec_.seq_len);
  }

  SplitSequences make_sequences(const SourceSpec& source, const TokenFile& file,
                                double held_out) const {
    const std::string name = name_of(source);
    check_excess(file, excess(file), spec_.seq_len, name);
    const DocumentSelection selection(file, excess(file), spec_.seq_len);
    if (selection.num_used() == 0 || file.num_tokens() < 2) {
      throw_user("{}: {} tokens found, at least 2 are needed to make one sequence{}", name,
                 file.num_tokens(),
                 selection.num_used() == 0 ? "; all samples were dropped for their length" : "");
    }
    return split_sequences(selection, {spec_.packing, source.train_on_inputs, held_out, spec_.seed},
                           name);
  }

  [[noreturn]] static void throw_nothing_trained(const std::string& where) {
    throw_user("{}: no token would be trained; every sample is prompt only, or a single token",
               where);
  }

  void finish_summary() {
    DataSummary& summary = data_->summary_;
    summary = summary_.finish();
    const SequenceCounts counts = data_->train_.counts();
    if (counts.trained == 0) throw_nothing_trained("data.train");
    summary.train_sequences = data_->train_.num_sequences();
    summary.train_tokens = counts.tokens;
    summary.trained_tokens = counts.trained;
    summary.packing_efficiency =
        static_cast<double>(counts.tokens) /
        (static_cast<double>(summary.train_sequences) * static_cast<double>(spec_.seq_len));
  }

  const DataSpec& spec_;
  const Tokenizer& tokenizer_;
  TokenizeOptions tokenize_;
  SummaryBuilder summary_;
  std::unique_ptr<TrainingData> data_;
};

std::unique_ptr<TrainingData> open_training_data(const DataSpec& spec, const Tokenizer& tokenizer,
                                                 const WarnFn& warn, const ProgressFn& progress) {
  TrainingDataBuilder builder(spec, tokenizer, warn, progress);
  builder.add_train();
  builder.add_eval();
  return builder.take();
}

std::unique_ptr<TrainingData> open_evaluation_data(const DataSpec& spec, const Tokenizer& tokenizer,
                                                   const WarnFn& warn, const ProgressFn& progress) {
  if (spec.eval.empty()) throw_user("data.eval: no source is given");
  TrainingDataBuilder builder(spec, tokenizer, warn, progress);
  builder.add_eval();
  return builder.take();
}

}  // namespace thimble
