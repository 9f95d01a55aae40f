#include "core/io/safetensors_model.h"

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

using testing::random_bytes;
using testing::TempDir;
using testing::write_bytes;

const std::vector<SafetensorsSpec> kSpecs = {{"a", DType::kF32, {10}},
                                             {"b", DType::kF32, {100}},
                                             {"c", DType::kBF16, {3}},
                                             {"d", DType::kU8, {0}}};

/// Writes the shards and, if there are several, the index.
void write_model(const std::filesystem::path& dir, std::int64_t max_shard_bytes) {
  const auto shards = plan_safetensors_shards(kSpecs, max_shard_bytes);
  for (const SafetensorsShard& shard : shards) {
    SafetensorsWriter writer(dir / shard.file_name, shard.specs, {});
    for (const SafetensorsSpec& spec : shard.specs) {
      writer.write(spec.name, random_bytes(static_cast<std::size_t>(spec.bytes()), 2));
    }
    writer.finish();
  }
  if (shards.size() > 1) make_safetensors_index(shards).save(dir / kSafetensorsIndexName);
}

TEST(SafetensorsModel, OneFileOrManyHoldTheSame) {
  for (const std::int64_t limit : {1, 40, 41, 446, 1 << 20}) {
    const TempDir dir;
    write_model(dir.path(), limit);
    const auto model = SafetensorsModel::open(dir.path());
    ASSERT_EQ(model.tensors().size(), 4u) << limit;
    for (const SafetensorsSpec& spec : kSpecs) {
      const auto [file, entry] = model.find(spec.name);
      ASSERT_NE(entry, nullptr);
      std::vector<std::byte> back(static_cast<std::size_t>(entry->bytes));
      file->read(*entry, 0, back);
      EXPECT_EQ(back, random_bytes(static_cast<std::size_t>(spec.bytes()), 2));
    }
    EXPECT_EQ(model.find("x").entry, nullptr);
  }
}

TEST(SafetensorsShards, NamesAndLimits) {
  const auto one = plan_safetensors_shards(kSpecs, 1 << 20);
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0].file_name, "model.safetensors");
  const auto three = plan_safetensors_shards(kSpecs, 100);
  ASSERT_EQ(three.size(), 3u);
  EXPECT_EQ(three[0].file_name, "model-00001-of-00003.safetensors");
  EXPECT_EQ(three[2].specs.size(), 2u);
  EXPECT_EQ(make_safetensors_index(three).total_size, 40 + 400 + 6);
  EXPECT_EQ(plan_safetensors_shards({}, 1).size(), 1u);
}

TEST(SafetensorsIndex, SurvivesTheFile) {
  const TempDir dir;
  const auto index = make_safetensors_index(plan_safetensors_shards(kSpecs, 100));
  index.save(dir / "i.json");
  const auto back = SafetensorsIndex::load(dir / "i.json");
  EXPECT_EQ(back.weight_map, index.weight_map);
  EXPECT_EQ(back.total_size, 446);
  EXPECT_EQ(back.shard_names().size(), 3u);
}

TEST(SafetensorsIndex, RefusesMalformedFiles) {
  const TempDir dir;
  const auto expect = [&](std::string_view text, std::string_view message) {
    write_bytes(dir / "i.json", text);
    EXPECT_THROWS_WITH(UserError, message, SafetensorsIndex::load(dir / "i.json"));
  };
  expect("{", "malformed JSON near byte");
  expect("{}", "'weight_map' is missing");
  expect(R"({"weight_map":[]})", "'weight_map' is missing");
  expect(R"({"weight_map":{"a":"f","a":"g"}})", "duplicate key 'a'");
  expect(R"({"weight_map":{"a":"../f"}})", "tensor 'a': shard \"../f\" is not the name of a file");
  expect(R"({"weight_map":{"a":"/etc/passwd"}})", "same directory");
  expect(R"({"weight_map":{"a":3}})", "shard 3 is not");
}

TEST(SafetensorsModel, RefusesMissingShardsAndStrayTensors) {
  const TempDir dir;
  EXPECT_THROWS_WITH(UserError, "no weights: neither model.safetensors nor",
                     SafetensorsModel::open(dir.path()));
  EXPECT_THROWS_WITH(UserError, "a model directory is expected",
                     SafetensorsModel::open(dir / "no"));
  write_model(dir.path(), 100);
  const auto index_path = dir / kSafetensorsIndexName;
  const auto index = SafetensorsIndex::load(index_path);

  SafetensorsIndex changed = index;
  changed.weight_map["z"] = changed.weight_map["a"];
  changed.save(index_path);
  EXPECT_THROWS_WITH(UserError, "tensor 'z' is not in model-00001",
                     SafetensorsModel::open(dir.path()));

  changed = index;
  changed.weight_map.erase("c");
  changed.save(index_path);
  EXPECT_THROWS_WITH(UserError, "the index places it nowhere", SafetensorsModel::open(dir.path()));

  changed = index;
  changed.weight_map["a"] = changed.weight_map["b"];
  changed.weight_map["x"] = index.weight_map.at("a");
  changed.save(index_path);
  EXPECT_THROWS_WITH(UserError, "the index places it in model-00002",
                     SafetensorsModel::open(dir.path()));

  index.save(index_path);
  std::filesystem::remove(dir / "model-00003-of-00003.safetensors");
  EXPECT_THROWS_WITH(UserError, "shard model-00003-of-00003.safetensors is missing",
                     SafetensorsModel::open(dir.path()));
}

}  // namespace
}  // namespace thimble
