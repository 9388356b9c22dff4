//! x
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {}
impl Demo {
    pub(crate) async fn run(self, _: &crate::commands::Context<'_>) -> anyhow::Result<()> {
        std::future::ready(()).await;
        Ok(())
    }
}
