// Every message of the job reader, held in files: golden/X.toml is read, and what it says stands in
// golden/X.txt. UPDATE_GOLDEN=1 writes the .txt files anew, docs/job.md and docs/job.schema.json
// with them.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/base/error.h"
#include "launcher/job/help_job.h"
#include "launcher/job/load_job.h"
#include "launcher/job/write_job.h"
#include "optim/registry.h"

namespace thimble::job {
namespace {

namespace fs = std::filesystem;

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

void expect_file(const fs::path& path, const std::string& actual) {
  if (std::getenv("UPDATE_GOLDEN") != nullptr) {
    std::ofstream(path, std::ios::binary) << actual;
    return;
  }
  EXPECT_TRUE(fs::exists(path)) << path;
  EXPECT_TRUE(read(path) == actual)
      << path << " is stale: run this test with UPDATE_GOLDEN=1. It should be\n"
      << (actual.size() < 8000 ? actual : "(long)");
}

// Messages list the names of all optimizers; a new one changes no file.
std::string without_optimizer_names(std::string text) {
  std::string names;
  for (const OptimizerEntry& entry : optimizer_entries())
    names += fmt::format("{}\"{}\"", names.empty() ? "" : ", ", entry.name);
  for (std::size_t at = text.find(names); at != std::string::npos; at = text.find(names))
    text.replace(at, names.size(), "(all optimizers)");
  return text;
}

std::string what_is_said(const fs::path& job) {
  try {
    return resolved_job_text(parse_job_text(read(job), job.filename().string()));
  } catch (const UserError& error) {
    return without_optimizer_names(std::string(error.what()) + "\n");
  }
}

TEST(JobGolden, EveryMessage) {
  std::vector<fs::path> jobs;
  for (const auto& entry : fs::directory_iterator("tests/launcher/golden")) {
    if (entry.path().extension() == ".toml") jobs.push_back(entry.path());
  }
  std::sort(jobs.begin(), jobs.end());
  ASSERT_GE(jobs.size(), 12u);
  for (const fs::path& job : jobs) {
    fs::path expected = job;
    expect_file(expected.replace_extension(".txt"), what_is_said(job));
  }
}

TEST(JobGolden, DocsAreCurrent) {
  expect_file("docs/job.md", job_markdown());
  expect_file("docs/job.schema.json", job_schema());
}

TEST(JobGolden, HelpAndInit) {
  expect_file("tests/launcher/golden/help_overview.txt", job_help_text(""));
  expect_file("tests/launcher/golden/help_optimizer.txt", job_help_text("optimizer"));
  const InitValues values{.model = "models/Qwen2.5-0.5B", .data = {"data/notes.txt"}};
  expect_file("tests/launcher/golden/init.txt", commented_job_text(values));
}

}  // namespace
}  // namespace thimble::job
