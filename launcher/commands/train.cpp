// `thimble train`: a job on one process, on ranks as threads, or as one rank of an MPI program.
#include <CLI/CLI.hpp>
#include <atomic>
#include <charconv>
#include <exception>
#include <thread>

#include "checkpoint/checkpoint_reader.h"
#include "core/base/error.h"
#include "core/base/text.h"
#include "launcher/commands/command.h"
#include "launcher/commands/mpi_rank.h"
#include "launcher/commands/train_rank.h"
#include "launcher/launch/rank_monitor.h"
#include "launcher/run/rank_environment.h"
#include "launcher/run/signals.h"
#include "parallel/local_world.h"
#include "parallel/mpi_world.h"

namespace thimble {
namespace {

// Chooses the rank whose error is reported: the one that ended the others, whose errors only repeat
// it. The order in which ranks ended says nothing about that.
std::exception_ptr first_error(const std::vector<std::exception_ptr>& errors,
                               const std::string& failure) {
  std::exception_ptr any;
  for (std::size_t r = 0; r < errors.size(); ++r) {
    if (!errors[r]) continue;
    if (!any) any = errors[r];
    try {
      std::rethrow_exception(errors[r]);
    } catch (const std::exception& e) {
      if (abort_reason(static_cast<int>(r), e.what()) == failure) return errors[r];
    } catch (...) {  // NOLINT(bugprone-empty-catch) not one of ours
    }
  }
  return any;
}

int run_simulated(const TrainArguments& arguments, CommandSession& session) {
  LocalWorld world(arguments.simulate);
  std::atomic<int> exit_code = 0;
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(arguments.simulate));
  std::vector<std::thread> threads;
  for (int r = 0; r < arguments.simulate; ++r) {
    threads.emplace_back([&, r] {
      const auto comm = world.communicator(r);
      try {
        RankMonitor monitor(r, arguments.simulate);
        const int code = abort_on_error(*comm, [&] {
          return train_rank({arguments, session, *comm, monitor, arguments.simulate, false});
        });
        if (code != 0) exit_code = code;
      } catch (...) {
        errors[static_cast<std::size_t>(r)] = std::current_exception();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  if (const auto error = first_error(errors, world.communicator(0)->failure()))
    std::rethrow_exception(error);
  return exit_code;
}

// --resume-from: a step of the run, or the directory of a checkpoint from elsewhere.
void set_resume_from(TrainArguments& arguments, const std::string& text) {
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), step);
  if (error == std::errc() && end == text.data() + text.size()) {
    arguments.resume_from = step;
    return;
  }
  if (!std::filesystem::is_directory(text))
    throw_user("--resume-from '{}': allowed a step or the directory of a checkpoint",
               printable(text, 200));
  const auto files = make_file_engine();
  arguments.resume_directory = text;
  arguments.resume_from =
      CheckpointReader::open(text, {*files, {}}, CheckpointCheck::kManifest).step();
}

int run_train(const TrainArguments& arguments, CommandSession& session) {
  const std::optional<RankEnvironment> launched = rank_environment(process_variables());
  const bool is_rank = launched && launched->ranks > 1;
  if (is_rank && launched->rank > 0) session.quiet = true;  // its log file has everything
  session.start();
  outlive_closed_output();
  if (arguments.simulate > 0) {
    if (is_rank)
      throw_user("--simulate {} under {} with {} ranks: choose one", arguments.simulate,
                 launched->source, launched->ranks);
    return run_simulated(arguments, session);
  }
  if (!is_rank) {
    SingleCommunicator alone;
    RankMonitor monitor(0, 1);
    return train_rank({arguments, session, alone, monitor, 1, true});
  }
  RankMonitor monitor(launched->rank, launched->ranks);
  const auto comm = make_mpi_world(std::chrono::minutes(10), monitor.listener());
  if (comm->size() != launched->ranks) {
    throw_user("the number of ranks is {} by {} but {} by MPI itself", launched->ranks,
               launched->source, comm->size());
  }
  return run_mpi_rank(session, *comm, [&] {
    return train_rank({arguments, session, *comm, monitor, launched->local_ranks, true});
  });
}

}  // namespace

void add_train_command(CLI::App& app, CommandSession& session) {
  auto arguments = std::make_shared<TrainArguments>();
  CLI::App* train = app.add_subcommand(
      "train", "Train the model a job file describes; continues an interrupted run");
  add_job_arguments(*train, *arguments);
  train->add_option("--resume", arguments->resume, "auto, never or must")
      ->check(CLI::IsMember({"auto", "never", "must"}));
  auto resume_from = std::make_shared<std::string>();
  train->add_option("--resume-from", *resume_from,
                    "Continue from this step's checkpoint, or from the checkpoint in this "
                    "directory; later ones of the run are moved aside");
  train->add_flag("--fresh", arguments->fresh, "Move the earlier run aside and start anew");
  train->add_option("--init-from", arguments->init_from, "Start from the weights of another run");
  train->add_option(
      "--trace", arguments->trace,
      "Write a Chrome trace of three steps, after the first two, to this file (rank 0)");
  train
      ->add_option("--simulate", arguments->simulate,
                   "Run this many ranks as threads of this process")
      ->default_str("")
      ->check(CLI::Range(1, 256));
  train->footer(
      "Examples:\n"
      "  thimble train examples/scratch-130m.toml\n"
      "  thimble train job.toml --set training.max_steps=200 --set optimizer.lr=1e-4\n"
      "  mpirun -np 4 --bind-to none thimble train job.toml\n"
      "Exit code 75: saved and stopped on a signal (SIGINT, SIGTERM, SIGHUP, SIGUSR1); the same "
      "command "
      "continues.");
  train->callback([arguments, resume_from, &session] {
    if (!resume_from->empty()) set_resume_from(*arguments, *resume_from);
    session.exit_code = run_train(*arguments, session);
  });
}

}  // namespace thimble
