#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "core/base/error.h"
#include "core/base/text.h"
#include "tests/house/include_checker.h"

namespace thimble::house {
namespace {

namespace fs = std::filesystem;
using Lines = std::vector<std::string>;

/// The repository, and never a tree without sources: ctest starts every test in its root.
Tree own_tree() {
  Tree tree = read_tree(fs::current_path());
  if (!tree.contains("core/base/error.h")) {
    throw UserError("run this test in the root of the repository");
  }
  return tree;
}

/// A tree on disk that a test fills with bad examples.
class BadTree {
 public:
  BadTree() {
    std::string name = (fs::temp_directory_path() / "thimble-house-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw_errno("mkdtemp", name);
    root_ = name;
  }
  ~BadTree() {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }
  BadTree(const BadTree&) = delete;
  BadTree& operator=(const BadTree&) = delete;

  void write(const std::string& path, const std::string& text = "") const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  void include(const std::string& path, const std::string& target) const {
    write(path, "#pragma once\n#include \"" + target + "\"\n");
  }
  Tree read() const { return read_tree(root_); }

 private:
  fs::path root_;
};

TEST(IncludeDag, EveryArrowIsAllowed) {
  EXPECT_EQ(join(check_arrows(own_tree()), "\n"), "");
}

// A step is the same for every model: what runs it sees none, by whatever way of includes.
TEST(IncludeDag, TrainingKnowsNoModel) {
  const Tree tree = own_tree();
  std::vector<std::string> open{"train/batch_feed.cpp",     "train/batch_sums.cpp",
                                "train/fp8_check.cpp",      "train/fused_update.cpp",
                                "train/state_forecast.cpp", "train/train_engine.cpp",
                                "train/micro_batches.cpp",  "train/weight_loading.cpp"};
  std::set<std::string> seen(open.begin(), open.end());
  for (const std::string& path : open) EXPECT_TRUE(tree.contains(path)) << path;
  while (!open.empty()) {
    const std::string path = open.back();
    open.pop_back();
    EXPECT_NE(zone_of(path), "models") << path;
    const auto file = tree.find(path);
    if (file == tree.end()) continue;
    for (const Include& include : file->second.includes) {
      if (seen.insert(include.target).second) open.push_back(include.target);
    }
  }
  EXPECT_TRUE(seen.contains("core/nn/trainable_model.h"));
}

TEST(IncludeDag, NoCycles) {
  EXPECT_EQ(join(check_cycles(own_tree()), "\n"), "");
}

TEST(IncludeDag, LongFilesHaveAReason) {
  std::ostringstream text;
  text << std::ifstream("tests/house/long_files.txt").rdbuf();
  EXPECT_EQ(join(check_lengths(own_tree(), parse_long_files(text.str())), "\n"), "");
}

TEST(IncludeChecker, EveryForbiddenPairOfZonesIsFound) {
  const std::vector<std::string> zones{"core/base",     "core/device", "core/tensor", "core/ops",
                                       "core/autograd", "core/nn",     "core/io",     "data",
                                       "models",        "optim",       "parallel",    "offload",
                                       "checkpoint",    "launcher",    "tests"};
  int allowed = 0;
  for (const std::string& from : zones) {
    for (const std::string& to : zones) {
      if (from == to) continue;
      const Tree tree{{to + "/b.h", {}},
                      {from + "/a.h", parse_source("\n#include \"" + to + "/b.h\"\n")}};
      const Lines breaches = check_arrows(tree);
      if (breaches.empty()) {
        ++allowed;
      } else {
        EXPECT_EQ(
            breaches,
            (Lines{fmt::format("{0}/a.h:2: {0} must not include {1} (\"{1}/b.h\")", from, to)}));
      }
    }
  }
  // Inside core 5+4+3+2+1 and io 1; five leaves with the 7 zones of core; checkpoint 8; launcher
  // 13; tests 14.
  EXPECT_EQ(allowed, 16 + 5 * 7 + 8 + 13 + 14);
}

TEST(IncludeChecker, ArrowsOfTheDesign) {
  const auto breaches = [](const std::string& from, const std::string& to) {
    return check_arrows({{to, {}}, {from, parse_source("#include \"" + to + "\"\n")}}).size();
  };
  EXPECT_EQ(breaches("core/nn/a.h", "core/autograd/b.h"), 0u);
  EXPECT_EQ(breaches("core/autograd/a.h", "core/nn/b.h"), 1u);
  EXPECT_EQ(breaches("core/ops/cpu/a.h", "core/ops/b.h"), 0u);
  EXPECT_EQ(breaches("core/ops/cpu/a.cpp", "core/autograd/b.h"), 1u);
  EXPECT_EQ(breaches("core/io/a.h", "core/device/b.h"), 1u);
  EXPECT_EQ(breaches("core/device/a.h", "core/io/b.h"), 1u);
  EXPECT_EQ(breaches("optim/a.h", "core/io/b.h"), 0u);
  EXPECT_EQ(breaches("optim/a.cu", "models/b.cuh"), 1u);
  EXPECT_EQ(breaches("checkpoint/a.h", "parallel/b.h"), 0u);
  EXPECT_EQ(breaches("parallel/a.h", "checkpoint/b.h"), 1u);
  EXPECT_EQ(breaches("checkpoint/a.h", "offload/b.h"), 1u);
  EXPECT_EQ(breaches("launcher/a.h", "tests/b.h"), 1u);
  EXPECT_EQ(breaches("bench/a.cpp", "launcher/b.h"), 0u);
  EXPECT_EQ(breaches("launcher/a.cpp", "bench/b.h"), 1u);
}

TEST(IncludeChecker, PathsMustStartAtTheRoot) {
  const BadTree tree;
  tree.write("data/b.h");
  tree.include("data/a.h", "b.h");
  tree.include("data/c.h", "../data/b.h");
  EXPECT_EQ(check_arrows(tree.read()),
            (Lines{"data/a.h:2: \"b.h\" is no file of the project, seen from its root",
                   "data/c.h:2: \"../data/b.h\" is no file of the project, seen from its root"}));
}

TEST(IncludeChecker, UnknownFoldersAreFoundAndBuildTreesSkipped) {
  const BadTree tree;
  tree.write("utilities/a.h");
  tree.write("core/a.h");
  tree.write("main.cpp");
  tree.write("build/x/bad.h");
  tree.write(".cache/bad.h");
  tree.write("runs/x/bad.cpp");
  EXPECT_EQ(check_arrows(tree.read()),
            (Lines{"core/a.h:1: folder 'core' has no place in the house",
                   "main.cpp:1: folder '' has no place in the house",
                   "utilities/a.h:1: folder 'utilities' has no place in the house"}));
}

TEST(IncludeChecker, CyclesOfFilesAndOfFolders) {
  const BadTree tree;
  tree.include("data/a.h", "data/b.h");
  tree.include("data/b.h", "data/c.h");
  tree.include("data/c.h", "data/a.h");
  tree.include("launcher/run/a.cpp", "launcher/job/b.h");
  tree.include("launcher/job/c.cpp", "launcher/run/d.h");
  tree.write("launcher/job/b.h");
  tree.write("launcher/run/d.h");
  tree.include("models/self.h", "models/self.h");
  EXPECT_EQ(check_arrows(tree.read()), Lines{});
  EXPECT_EQ(check_cycles(tree.read()),
            (Lines{"cycle: data/a.h -> data/b.h -> data/c.h -> data/a.h",
                   "cycle: models/self.h -> models/self.h",
                   "folder cycle: launcher/job -> launcher/run -> launcher/job"}));
}

TEST(IncludeChecker, LongFilesNeedAReasonAndReasonsALongFile) {
  const BadTree tree;
  const auto lines = [](int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += "\n";
    return text;
  };
  tree.write("data/at_limit.cpp", lines(400));
  tree.write("data/long.cpp", lines(400) + "x");
  tree.write("data/excused.cpp", lines(500));
  EXPECT_EQ(
      check_lengths(tree.read(), parse_long_files("# a comment\n\ndata/excused.cpp: a table\n"
                                                  "data/at_limit.cpp: no longer\n"
                                                  "data/gone.cpp: gone\n")),
      (Lines{"data/long.cpp: 401 lines, at most 400 without a reason in long_files.txt",
             "long_files.txt: data/at_limit.cpp is not longer than 400 lines, remove the entry",
             "long_files.txt: data/gone.cpp is not longer than 400 lines, remove the entry"}));
  EXPECT_THROW(parse_long_files("data/x.cpp\n"), UserError);
  EXPECT_THROW(parse_long_files("data/x.cpp:  \n"), UserError);
}

TEST(IncludeChecker, WhatCountsAsAnInclude) {
  const SourceFile file = parse_source(
      "#include \"a.h\"\n"
      "  #  include  \"b.h\"  // why\n"
      "#include <vector>\n"
      "#include <core/base/error.h>\n"
      "// #include \"comment.h\"\n"
      "/* #include \"block.h\"\n"
      "#include \"block2.h\" */\n"
      "// not the start of a block: /*\n"
      "const char* glob = \"\\\"data/*\"; char quote = '\"';\n"
      "#include \"c.h\"\n"
      "const char* text = \"#include\";");
  std::string found;
  for (const Include& include : file.includes) {
    found += fmt::format("{}:{} ", include.target, include.line);
  }
  EXPECT_EQ(found, "a.h:1 b.h:2 core/base/error.h:4 c.h:10 ");
  EXPECT_EQ(file.num_lines, 11);
  EXPECT_EQ(parse_source("").num_lines, 0);
}

}  // namespace
}  // namespace thimble::house
