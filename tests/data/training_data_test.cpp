// The entry point of training: sources, split, order, summary and messages together.
#include "data/training_data.h"

#include <gmock/gmock.h>

#include <set>

#include "data/tokenize.h"
#include "tests/data/corpus_test_util.h"

namespace thimble {
namespace {

using testing::FakeTokenizer;
using ::testing::HasSubstr;
using testing::message_of;
using testing::TempDir;

DataSpec spec_of(const TempDir& dir, std::vector<std::string> paths, std::int64_t seq_len) {
  DataSpec spec;
  for (std::string& path : paths) {
    SourceSpec source;
    source.paths = {std::move(path)};
    spec.train.push_back(source);
  }
  spec.seq_len = seq_len;
  spec.cache_dir = dir.file("cache");
  return spec;
}

std::unique_ptr<TrainingData> open(const DataSpec& spec) {
  return open_training_data(spec, FakeTokenizer(), {}, {});
}

std::string error_of(const DataSpec& spec) {
  return message_of<UserError>([&] { open(spec); });
}

TEST(TrainingData, DamagedCacheIsMadeAnewAUsersFileIsNot) {
  TempDir dir;
  std::string text;
  for (int i = 0; i < 40000; ++i) text += static_cast<char>('a' + i * 7 % 26);
  const DataSpec spec = spec_of(dir, {dir.write("a.txt", text)}, 64);
  const std::string digest = open(spec)->train_digests()[0];
  std::filesystem::path cached;
  for (const auto& entry : std::filesystem::directory_iterator(spec.cache_dir))
    if (entry.path().extension() == ".tokens") cached = entry.path();
  const std::string whole = testing::read_bytes(cached);
  const auto put = [&](const std::filesystem::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
  };
  for (const std::size_t size : {std::size_t{0}, std::size_t{5}, whole.size() / 2}) {
    put(cached, whole.substr(0, size));
    int warnings = 0;
    const auto data =
        open_training_data(spec, FakeTokenizer(), [&](const std::string&) { ++warnings; }, {});
    EXPECT_EQ(data->train_digests()[0], digest) << size;
    EXPECT_EQ(warnings, 1) << size;
    EXPECT_TRUE(testing::read_bytes(cached) == whole);
  }
  // Damage inside of the tokens is met later; the next start then makes the copy anew.
  std::string flipped = whole;
  flipped[5000] = static_cast<char>(flipped[5000] ^ 1);
  put(cached, flipped);
  const auto data = open(spec);
  std::vector<std::int64_t> sequences(static_cast<std::size_t>(data->train().num_sequences()));
  for (std::size_t i = 0; i < sequences.size(); ++i) sequences[i] = static_cast<std::int64_t>(i);
  EXPECT_THAT(message_of<SystemError>([&] { data->train().get_sequences(sequences); }),
              HasSubstr("it was removed, the same command makes it anew"));
  EXPECT_FALSE(std::filesystem::exists(cached));
  open(spec)->train().get_sequences(sequences);
  // One that the user wrote stays, wherever it lies.
  const std::string mine = spec.cache_dir + "/mine.tokens";
  put(mine, whole.substr(0, whole.size() / 2));
  EXPECT_THROW(open(spec_of(dir, {mine}, 64)), SystemError);
  EXPECT_TRUE(std::filesystem::exists(mine));
}

TEST(TrainingData, TextWithValidationAndSummary) {
  TempDir dir;
  std::string lines;
  for (int i = 0; i < 100; ++i)
    lines += fmt::format("{{\"text\":\"{}\"}}\n", std::string(static_cast<std::size_t>(i), 'a'));
  lines += "{\"text\":\"aaa\"}\n";
  DataSpec spec = spec_of(dir, {dir.write("a.jsonl", lines)}, 16);
  spec.val_set_size = 0.1;
  spec.threads = 2;
  const auto data = open(spec);
  const DataSummary& s = data->summary();
  EXPECT_EQ(s.samples, 100);  // one is empty
  EXPECT_EQ(s.empty, 1);
  EXPECT_EQ(s.duplicates, 1);
  EXPECT_EQ(s.tokens, 99 * 100 / 2 + 3 + 100);
  EXPECT_EQ(s.longest, 100);
  EXPECT_EQ(s.p50, 50);
  EXPECT_EQ(s.p90, 90);
  EXPECT_EQ(s.p99, 99);
  EXPECT_EQ(s.dropped, 0);
  EXPECT_EQ(s.split, 84);
  EXPECT_EQ(s.without_trained_tokens, 0);
  EXPECT_EQ(s.train_sequences, data->train().num_sequences());
  EXPECT_NEAR(s.bytes_per_token,
              static_cast<double>(s.tokens - 100) / static_cast<double>(s.tokens), 1e-12);
  EXPECT_GT(s.packing_efficiency, 0.99);
  ASSERT_EQ(data->validation().size(), 1u);
  EXPECT_EQ(data->validation()[0].name, "validation");
  const SequenceCounts held = data->validation()[0].data.counts();
  EXPECT_EQ(held.tokens + s.train_tokens, s.tokens);
  EXPECT_EQ(held.trained + s.trained_tokens, s.tokens - s.samples);
  // One epoch trains every token that has loss, once.
  double weight = 0;
  for (std::int64_t i = 0; i < data->sampler().sequences_per_epoch(); ++i) {
    const std::vector<std::int64_t> id{data->sampler().sequence_at(i)};
    for (const float w : data->train().get_sequences(id).weights) weight += w;
  }
  EXPECT_EQ(weight, static_cast<double>(s.trained_tokens));
}

TEST(TrainingData, TheSecondOpeningReadsTheCacheAndGivesTheSameSequences) {
  TempDir dir;
  DataSpec spec =
      spec_of(dir, {dir.write("a.txt", "some text"), dir.write("b.txt", "more of it")}, 4);
  int reports = 0;
  const auto count = [&](const TokenizeProgress& p) {
    ++reports;
    EXPECT_EQ(p.bytes_done, p.bytes_total);
  };
  const auto first = open_training_data(spec, FakeTokenizer(), {}, count);
  EXPECT_EQ(reports, 2);
  const auto second = open_training_data(spec, FakeTokenizer(), {}, count);
  EXPECT_EQ(reports, 2);
  std::vector<std::int64_t> ids;
  for (std::int64_t i = 0; i < 7; ++i) ids.push_back(first->sampler().sequence_at(i));
  EXPECT_EQ(first->train().get_sequences(ids).tokens, second->train().get_sequences(ids).tokens);
  EXPECT_EQ(first->train().num_sequences(), 6);
}

TEST(TrainingData, PromptCompletionTokensAndEvaluationSources) {
  TempDir dir;
  const std::string pairs = dir.write("a.jsonl",
                                      "{\"prompt\":\"ab\",\"completion\":\"cd\"}\n"
                                      "{\"prompt\":\"e\",\"completion\":\"f\"}\n");
  SourceSpec source;
  source.paths = {pairs};
  tokenize_files(source, FakeTokenizer(), dir.file("a.tokens"), {});
  for (const std::string& path : {pairs, dir.file("a.tokens")}) {
    DataSpec spec = spec_of(dir, {path}, 8);
    SourceSpec eval;
    eval.name = "held";
    eval.paths = {dir.write("v.txt", "xyz")};
    spec.eval = {eval};
    const auto data = open(spec);
    EXPECT_EQ(data->train().num_sequences(), 1);
    EXPECT_EQ(data->summary().trained_tokens, 5);
    ASSERT_EQ(data->validation().size(), 1u);
    EXPECT_EQ(data->validation()[0].name, "held");
    EXPECT_DOUBLE_EQ(data->validation()[0].bytes_per_token, 0.75);
    spec.train[0].train_on_inputs = true;
    EXPECT_EQ(open(spec)->summary().trained_tokens, 6);
    EXPECT_EQ(open_evaluation_data(spec, FakeTokenizer(), {}, {})->validation().size(), 1u);
  }
}

TEST(TrainingData, StrategiesAreCounted) {
  TempDir dir;
  DataSpec spec = spec_of(dir,
                          {dir.write("a.jsonl",
                                     "{\"prompt\":\"abcdef\",\"completion\":\"cd\"}\n"
                                     "{\"prompt\":\"e\",\"completion\":\"f\"}\n")},
                          5);
  EXPECT_THAT(error_of(spec),
              HasSubstr("1 of 2 samples are longer than seq_len = 5 (the longest has 9 tokens)"));
  spec.excess_length = ExcessLength::kDrop;
  EXPECT_EQ(open(spec)->summary().dropped, 1);
  spec.excess_length = ExcessLength::kTruncate;
  EXPECT_EQ(open(spec)->summary().truncated, 1);
  EXPECT_EQ(open(spec)->summary().without_trained_tokens, 1);
  spec.excess_length = ExcessLength::kSplit;
  EXPECT_EQ(open(spec)->summary().split, 1);
  EXPECT_EQ(open(spec)->summary().trained_tokens, 5);
  spec.seq_len = 2;
  spec.excess_length = ExcessLength::kDrop;
  EXPECT_THAT(
      error_of(spec),
      HasSubstr(
          "at least 2 are needed to make one sequence; all samples were dropped for their length"));
}

TEST(TrainingData, ValidationCountIsDividedOverTheSources) {
  TempDir dir;
  const auto lines = [](int count, char c) {
    std::string text;
    for (int i = 0; i < count; ++i) text += fmt::format("{{\"text\":\"{}{}\"}}\n", c, i % 10);
    return text;
  };
  DataSpec spec = spec_of(
      dir, {dir.write("a.jsonl", lines(300, 'a')), dir.write("b.jsonl", lines(100, 'b'))}, 3);
  spec.val_set_size = 40;
  spec.train[0].weight = 2;
  const auto data = open(spec);
  ASSERT_EQ(data->validation().size(), 1u);
  EXPECT_EQ(data->validation()[0].data.source_sequences(0), 30);
  EXPECT_EQ(data->validation()[0].data.source_sequences(1), 10);
  EXPECT_EQ(data->sampler().sequences_per_epoch(), 0);
}

TEST(TrainingData, Messages) {
  TempDir dir;
  const std::string text = dir.write("a.txt", "some text");
  DataSpec spec = spec_of(dir, {text}, 0);
  EXPECT_EQ(error_of(spec), "data.seq_len = 0; allowed: 1 to 1073741824");
  spec.seq_len = 8;
  spec.val_set_size = -1;
  EXPECT_EQ(error_of(spec),
            "data.val_set_size = -1; allowed: 0, a share below 1, or a number of samples");
  spec.val_set_size = 0;
  spec.cache_dir = "";
  EXPECT_EQ(error_of(spec), "data.cache_dir is empty; name a directory");
  spec.cache_dir = dir.file("cache");
  spec.train.clear();
  EXPECT_EQ(error_of(spec), "data.train: no source is given");
  EXPECT_EQ(message_of<UserError>([&] { open_evaluation_data(spec, FakeTokenizer(), {}, {}); }),
            "data.eval: no source is given");
  testing::write_tokens(dir.file("one.tokens"), {{{5}, 0}}, 258, false);
  EXPECT_EQ(error_of(spec_of(dir, {dir.file("one.tokens")}, 8)),
            dir.file("one.tokens") +
                ": 1 tokens found, fewer than one sequence of data.seq_len = 8; add "
                "text or lower it");
  EXPECT_EQ(
      error_of(spec_of(dir, {dir.file("one.tokens")}, 1)),
      dir.file("one.tokens") + ": 1 tokens found, at least 2 are needed to make one sequence");
  testing::write_tokens(dir.file("p.tokens"), {{{5, 6}, 2}}, 258, true);
  EXPECT_EQ(
      error_of(spec_of(dir, {dir.file("p.tokens")}, 8)),
      "data.train: no token would be trained; every sample is prompt only, or a single token");
  EXPECT_THAT(message_of<UserError>([&] {
                open_training_data(spec_of(dir, {dir.file("p.tokens")}, 8), FakeTokenizer(false, 9),
                                   {}, {});
              }),
              HasSubstr("written with another tokenizer"));
}

TEST(TrainingData, ADocumentDoesNotChangeItsNeighboursInputs) {
  // Changing one document of equal length changes only the positions that belong to it.
  TempDir dir;
  const auto sequences = [&](const std::string& middle) {
    DataSpec spec = spec_of(dir,
                            {dir.write("a.jsonl", "{\"text\":\"first\"}\n{\"text\":\"" + middle +
                                                      "\"}\n{\"text\":\"third one\"}\n")},
                            7);
    std::vector<std::int64_t> ids;
    const auto data = open(spec);
    for (std::int64_t i = 0; i < data->train().num_sequences(); ++i) ids.push_back(i);
    return data->train().get_sequences(ids);
  };
  const Batch a = sequences("aaaaaaaa");
  const Batch b = sequences("bbbbbbbb");
  EXPECT_EQ(a.segment_start, b.segment_start);
  EXPECT_EQ(a.weights, b.weights);
  for (std::size_t i = 0; i < a.tokens.size(); ++i) {
    const bool middle = a.tokens[i] == 'a';
    EXPECT_EQ(a.tokens[i] != b.tokens[i], middle);
    if (!middle) {
      EXPECT_EQ(a.targets[i], b.targets[i]);
    }
  }
}

}  // namespace
}  // namespace thimble
