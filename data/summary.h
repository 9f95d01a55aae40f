// The numbers a run prints about its data before it begins.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/data_spec.h"
#include "data/token_file.h"

namespace thimble {

struct DataSummary {
  std::vector<std::string> sources;  // of training: file, format, chat template
  std::int64_t samples = 0;          // documents or samples, before anything is dropped or held out
  std::int64_t tokens = 0;           // of these samples
  std::int64_t p50 = 0;              // length percentiles in tokens, nearest rank
  std::int64_t p90 = 0;
  std::int64_t p99 = 0;
  std::int64_t longest = 0;
  std::vector<std::int64_t> lengths;  // how many samples have 2^i .. 2^(i+1)-1 tokens
  std::int64_t special = 0;           // special tokens that the text itself spelled
  std::int64_t bad_lines = 0;         // skipped because they could not be read
  std::int64_t empty = 0;             // left out when tokenised: no text
  std::int64_t duplicates = 0;        // the same text as an earlier sample of the source
  std::int64_t without_trained_tokens = 0;
  std::int64_t dropped = 0;  // by the excess length strategy
  std::int64_t truncated = 0;
  std::int64_t split = 0;  // cut into pieces for being longer than a sequence
  std::int64_t train_sequences = 0;
  std::int64_t train_tokens = 0;    // positions of the training sequences that hold a token
  std::int64_t trained_tokens = 0;  // of these, the ones with loss
  double packing_efficiency = 0;    // train_tokens / (train_sequences * seq_len)
  double bytes_per_token = 0;  // of text; nats per token / (ln 2 * bytes_per_token) = bits per byte
};

/// One line for the start of a run: samples, tokens, lengths, what was left out, sequences and how
/// full they are.
std::string summary_text(const DataSummary& summary);

/// Bytes of text for each token of the files.
double text_bytes_per_token(const std::vector<const TokenFile*>& files);

/// Collects the figures that come from the token files of the training sources.
class SummaryBuilder {
 public:
  explicit SummaryBuilder(std::int64_t seq_len) : seq_len_(seq_len) {}

  void describe(std::string source) { summary_.sources.push_back(std::move(source)); }
  void add(const TokenFile& file, ExcessLength excess, bool train_on_inputs);
  /// The summary; the fields about training sequences are left to the caller.
  DataSummary finish();

 private:
  std::int64_t seq_len_;
  DataSummary summary_;
  std::vector<const TokenFile*> files_;
  std::vector<std::uint32_t> lengths_;
};

}  // namespace thimble
